//! The whole model, driven block by block.

use std::path::Path;
use std::sync::Arc;

use candle_core::{IndexOp, Tensor};
use fleetune_shared::recipe::Quantization;
use fleetune_shared::{Device, Keeps, MemoryPlan, ModelSpec};

use super::block::{Block, Pass, Saved};
use super::cache::KvCache;
use super::embedding::Embedding;
use super::head::Labelled;
use super::identity::Identity;
use super::linear::Linear;
use super::noise::Noise;
use super::norm::Norm;
use super::stored::Stored;
use super::trainable::{Parameter, Trainable};
use crate::data::MicroBatch;
use crate::ops::{self, Backend, Frequencies, Rotary, Span};
use crate::{EngineError, Result};

/// A decoder-only transformer with frozen weights, until [`Model::attach`] or [`Model::train_full`] says what learns.
#[derive(Debug)]
pub struct Model {
    pub(super) spec: ModelSpec,
    pub(super) ops: Arc<dyn Backend>,
    pub(super) embed: Embedding,
    pub(super) blocks: Vec<Block>,
    /// `[H]`.
    pub(super) norm: Norm,
    /// `[V, H]`; `None` when it is the embedding.
    pub(super) head: Option<Linear>,
    /// `[1, H]`: what a reward model has in the head's place.
    pub(super) score: Option<Trainable>,
    pub(super) frequencies: Frequencies,
    /// Of blocks with a sliding window, where they turn otherwise.
    pub(super) local_frequencies: Option<Frequencies>,
    /// Whether what is laid beside the base has a say, see [`Model::set_adapters`].
    pub(super) adapters: bool,
    /// Where the run stands: what a backward pass drops and the noise on its embeddings are drawn from it. Nothing is
    /// without it, nor in a pass that only asks.
    pub noise: Option<Noise>,
    /// Whether nothing is dropped even so, as preference tuning wants it (TRL's `disable_dropout`).
    pub disable_dropout: bool,
    /// What blocks keep from the forward to the backward pass. Changes memory and time, never numbers.
    pub memory_plan: MemoryPlan,
    /// How far noise moves embeddings while training (α of arXiv 2310.05914), if at all.
    pub neftune_noise_alpha: Option<f64>,
    /// Which model was loaded, where somebody asked: what is saved of an adapter carries it along.
    pub identity: Option<Identity>,
}

/// What a block left for the backward pass.
enum Kept {
    Input(Tensor),
    All(Box<Saved>),
}

impl Model {
    /// Loads a safetensors folder or a GGUF file, everything frozen.
    ///
    /// # Errors
    /// [`EngineError::Input`] naming the file and tensor for anything missing, damaged, or unlike the configuration.
    pub fn load(path: &Path) -> Result<Self> {
        Self::load_as(path, Quantization::Float32)
    }

    /// As [`Self::load`], with weights held as `how` says. They are quantised one after the other while the file is
    /// read; products unpack them tile by tile, so that no weight is ever whole in f32. Where `how` is bf16, activations
    /// are bf16 as well and products multiply bf16, see [`Mixed`](crate::ops::Mixed).
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_as(path: &Path, how: Quantization) -> Result<Self> {
        super::load::load(path, ops::open(Device::Cpu, 0, how.activations())?, how)
    }

    /// A model of the shape that `config.json` in the folder `path` gives, with weights drawn from `seed` as
    /// transformers draws them: normal with the deviation `initializer_range` (0.02 unless the file says otherwise),
    /// norms one, biases zero.
    ///
    /// # Errors
    /// [`EngineError::Input`] when there is no such folder or the configuration is wrong.
    pub fn random(path: &Path, seed: u64) -> Result<Self> {
        Self::random_as(path, seed, Quantization::Float32)
    }

    /// As [`Self::random`], held and computed with as by [`Self::load_as`].
    ///
    /// # Errors
    /// As [`Self::random`].
    pub fn random_as(path: &Path, seed: u64, how: Quantization) -> Result<Self> {
        super::random::random(path, ops::open(Device::Cpu, 0, how.activations())?, seed, how)
    }

    /// The shape.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Makes every weight learn that is held as f32; the others, [`Self::packed`], cannot.
    pub fn train_full(&mut self) {
        self.parameters_mut().for_each(Parameter::thaw);
    }

    /// As [`Self::train_full`], with matrices in bf16 while they learn, as they are after loading them as
    /// [`Quantization::Bfloat16`]; the optimizer rounds their steps by chance.
    ///
    /// # Errors
    /// A device that failed.
    pub fn train_full_bf16(&mut self) -> Result<()> {
        self.parameters_mut().try_for_each(Parameter::thaw_bf16)
    }

    /// What learns, in an order that is the same every time.
    pub fn trainables(&self) -> impl Iterator<Item = &Trainable> {
        let blocks = self.blocks.iter().flat_map(Block::trainables);
        let head = self.head.iter().flat_map(Linear::trainables);
        let end = self.norm.weight.trainable().into_iter().chain(head).chain(&self.score);
        self.embed.trainables().chain(blocks).chain(end)
    }

    /// As [`Self::trainables`].
    pub fn trainables_mut(&mut self) -> impl Iterator<Item = &mut Trainable> {
        let blocks = self.blocks.iter_mut().flat_map(Block::trainables_mut);
        let head = self.head.iter_mut().flat_map(Linear::trainables_mut);
        let norm = self.norm.weight.trained_mut();
        let end = norm.into_iter().chain(head).chain(&mut self.score);
        self.embed.trainables_mut().chain(blocks).chain(end)
    }

    /// Frees all gradient buffers.
    pub fn clear_gradients(&mut self) {
        self.trainables_mut().for_each(Trainable::clear);
    }

    /// Weights of the base by Hugging Face's names, in a fixed order: those held as f32, which is all of them unless
    /// the model was loaded in fewer bits, and those that learn in bf16.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let score = self.score.iter().map(|score| (score.name.as_str(), &score.value));
        let base = self.parameters();
        base.filter_map(|parameter| Some((parameter.name(), parameter.tensor()?))).chain(score)
    }

    /// As [`Self::weights`], and those that are frozen in bf16: all but [`Self::packed`].
    pub(super) fn stored(&self) -> impl Iterator<Item = (&str, Stored<'_>)> {
        let score =
            self.score.iter().map(|score| (score.name.as_str(), Stored::from(&score.value)));
        let base = self.parameters();
        base.filter_map(|parameter| Some((parameter.name(), parameter.stored()?))).chain(score)
    }

    /// Names of the weights in fewer bits than bf16, which neither learn nor can be saved.
    pub fn packed(&self) -> impl Iterator<Item = &str> {
        self.parameters().filter(|parameter| parameter.stored().is_none()).map(Parameter::name)
    }

    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let blocks = self.blocks.iter().flat_map(Block::parameters);
        let head = self.head.iter().map(|head| &head.weight);
        let all = std::iter::once(&self.embed.table).chain(blocks).chain([&self.norm.weight]);
        // A reward model has a score instead of a head.
        all.chain(head.filter(|_| self.score.is_none()))
    }

    pub(super) fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let blocks = self.blocks.iter_mut().flat_map(Block::parameters_mut);
        let head = self.head.iter_mut().map(|head| &mut head.weight);
        let embed = std::iter::once(&mut self.embed.table);
        embed.chain(blocks).chain([&mut self.norm.weight]).chain(head)
    }

    /// Adds `grad_scale` · d(summed loss)/dθ to the gradient of everything that learns, and gives the summed negative
    /// log-likelihood of the batch's labelled positions, in nats and unscaled. A batch without labels gives 0 and
    /// leaves the gradients alone.
    ///
    /// # Errors
    /// [`EngineError::Input`] for ids beyond the vocabulary; [`EngineError::OutOfMemory`] at a limit.
    pub fn forward_backward(&mut self, batch: &MicroBatch, grad_scale: f64) -> Result<f64> {
        self.forward_backward_each(batch, grad_scale, 0.0, &mut |_| Ok(()))
    }

    /// As [`Self::forward_backward`], of a loss smoothed as by [`Self::smoothed_loss`]. `each` is shown everything that
    /// learns as soon as this batch adds nothing more to its gradient, and may change its value and free its gradient:
    /// the pass looks at neither again.
    ///
    /// # Errors
    /// As [`Self::forward_backward`], or what `each` fails with.
    pub fn forward_backward_each(
        &mut self,
        batch: &MicroBatch,
        grad_scale: f64,
        smoothing: f64,
        each: &mut dyn FnMut(&mut Trainable) -> Result<()>,
    ) -> Result<f64> {
        let labelled = Labelled::of(batch);
        if batch.supervised() == 0 {
            self.check(batch)?;
            return Ok(0.0);
        }
        let head = |model: &mut Self, pass: &Pass<'_>, x: &Tensor| {
            let mut loss = 0.0;
            let dx = model.head_backward(pass, x, &labelled, |logits, targets, _| {
                loss += pass.ops.cross_entropy_backward(logits, targets, smoothing, grad_scale)?;
                Ok(())
            })?;
            Ok((loss, dx))
        };
        self.walk(batch, head, each)
    }

    /// Walks up through the blocks, asks `head` for a loss and its gradient for the residual stream, and walks down
    /// again, adding to the gradients of what learns; `each` as in [`Self::forward_backward_each`].
    pub(super) fn walk<T>(
        &mut self,
        batch: &MicroBatch,
        head: impl FnOnce(&mut Self, &Pass<'_>, &Tensor) -> Result<(T, Tensor)>,
        each: &mut dyn FnMut(&mut Trainable) -> Result<()>,
    ) -> Result<T> {
        self.check(batch)?;
        let ops = self.ops.clone();
        let spec = self.spec.clone();
        let pass = self.pass(ops.as_ref(), &spec, spans(batch));
        let pass = Pass { noise: self.noise.filter(|_| !self.disable_dropout), ..pass };
        let lowest = self.lowest_trained();

        let mut x = self.embedded(&pass, &batch.input_ids)?;
        if let (Some(alpha), Some(noise)) = (self.neftune_noise_alpha, self.noise) {
            noise.on_embeddings(alpha, &x, &pass.spans)?;
        }
        let mut kept = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            crate::memory::check()?;
            let input = x.clone();
            let (y, mut saved) = block.forward(&pass, x, None)?;
            x = y;
            if index >= lowest {
                kept.push(match self.memory_plan.of_block(index, self.blocks.len()) {
                    Keeps::Everything => Kept::All(Box::new(saved)),
                    Keeps::AllButGates => {
                        saved.shed();
                        Kept::All(Box::new(saved))
                    }
                    Keeps::Input => Kept::Input(input),
                });
            }
        }

        let (loss, mut dx) = head(self, &pass, &x)?;
        drop(x);
        let head = self.head.iter_mut().flat_map(Linear::trainables_mut);
        self.norm.weight.trained_mut().into_iter().chain(head).try_for_each(&mut *each)?;
        let embed_learns = self.embed.trained();
        for (index, block) in self.blocks.iter_mut().enumerate().skip(lowest).rev() {
            crate::memory::check()?;
            let saved = match kept.pop() {
                None => break,
                Some(Kept::All(saved)) => *saved,
                Some(Kept::Input(x)) => block.forward(&pass, x, None)?.1,
            };
            let want_dx = index > lowest || embed_learns;
            let below = block.backward(&pass, dx, saved, want_dx)?;
            block.trainables_mut().try_for_each(&mut *each)?;
            match below {
                Some(next) => dx = next,
                None => return Ok(loss),
            }
        }
        if embed_learns {
            // See `ModelSpec::pad_token_id`.
            let ids = batch.input_ids.iter().copied().zip(0..);
            let (ids, rows): (Vec<u32>, Vec<u32>) =
                ids.filter(|(id, _)| Some(*id) != spec.pad_token_id).unzip();
            let dx = if ids.len() < batch.tokens_computed() { ops.gather(&dx, &rows)? } else { dx };
            let dx = scaled(dx, spec.embedding_scale())?;
            self.embed.backward(ops.as_ref(), &ids, &dx)?;
            self.embed.trainables_mut().try_for_each(each)?;
        }
        Ok(loss)
    }

    /// Summed negative log-likelihood in nats of the batch's labelled positions; keeps nothing.
    ///
    /// # Errors
    /// As [`Self::forward_backward`].
    pub fn loss(&self, batch: &MicroBatch) -> Result<f64> {
        self.smoothed_loss(batch, 0.0)
    }

    /// As [`Self::loss`], with a share of each label, `smoothing`, spread evenly over the vocabulary (arXiv 1512.00567,
    /// as transformers' `LabelSmoother`).
    ///
    /// # Errors
    /// As [`Self::forward_backward`].
    pub fn smoothed_loss(&self, batch: &MicroBatch, smoothing: f64) -> Result<f64> {
        self.check(batch)?;
        let x = self.hidden(batch)?;
        self.head_loss(&x, &Labelled::of(batch), smoothing)
    }

    /// Logits of one sequence, `[tokens, V]`.
    ///
    /// # Errors
    /// [`EngineError::Input`] for ids beyond the vocabulary or no ids at all.
    pub fn logits(&self, input_ids: &[u32]) -> Result<Tensor> {
        self.packed_logits(input_ids, &[0, input_ids.len()])
    }

    /// Logits of sequences laid end to end, `[tokens, V]`; `cu_seqlens` as in [`MicroBatch`].
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn packed_logits(&self, input_ids: &[u32], cu_seqlens: &[usize]) -> Result<Tensor> {
        self.check_ids(input_ids)?;
        let batch = MicroBatch {
            input_ids: input_ids.to_vec(),
            cu_seqlens: cu_seqlens.to_vec(),
            prefixes: vec![0..0; cu_seqlens.len().saturating_sub(1)],
            ..MicroBatch::default()
        };
        self.head_logits(&self.hidden(&batch)?)
    }

    /// Reads `tokens` after what `cache` remembers, and gives the logits that follow the last of them, `[V]`.
    ///
    /// # Errors
    /// As [`Self::logits`]; the cache is then unusable.
    pub fn step(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        self.check_ids(tokens)?;
        let span = Span { k: 0..cache.len() + tokens.len(), ..Span::causal(0..tokens.len()) };
        let pass = self.pass(self.ops.as_ref(), &self.spec, vec![span]);
        let mut x = self.embedded(&pass, tokens)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&pass, x, Some((index, cache)))?.0;
        }
        cache.advance(tokens.len());
        let last = x.narrow(0, tokens.len() - 1, 1)?;
        Ok(self.head_logits(&last)?.i(0)?)
    }

    /// The beginning of the residual stream, `[ids, H]`.
    fn embedded(&self, pass: &Pass<'_>, ids: &[u32]) -> Result<Tensor> {
        scaled(self.embed.forward(pass, ids)?, self.spec.embedding_scale())
    }

    /// The residual stream before the final norm, `[tokens, H]`.
    pub(super) fn hidden(&self, batch: &MicroBatch) -> Result<Tensor> {
        let pass = self.pass(self.ops.as_ref(), &self.spec, spans(batch));
        let mut x = self.embedded(&pass, &batch.input_ids)?;
        for block in &self.blocks {
            crate::memory::check()?;
            x = block.forward(&pass, x, None)?.0;
        }
        Ok(x)
    }

    /// Over examples whose queries are laid end to end.
    pub(super) fn pass<'a>(
        &self,
        ops: &'a dyn Backend,
        spec: &'a ModelSpec,
        spans: Vec<Span>,
    ) -> Pass<'a> {
        let positions = spans.iter().map(|span| span.lead()..span.keys());
        let local = self.local_frequencies.as_ref();
        Pass {
            ops,
            spec,
            adapters: self.adapters,
            noise: None,
            rotary: Rotary::new(&self.frequencies, positions.clone()),
            local_rotary: local.map(|frequencies| Rotary::new(frequencies, positions)),
            spans,
        }
    }

    /// The lowest block something in or below which learns; the number of blocks when nothing in them does.
    fn lowest_trained(&self) -> usize {
        if self.embed.trained() {
            return 0;
        }
        self.blocks.iter().position(Block::trained).unwrap_or(self.blocks.len())
    }

    pub(super) fn check(&self, batch: &MicroBatch) -> Result<()> {
        let tokens = batch.tokens_computed();
        let ends = batch.cu_seqlens.first() == Some(&0) && batch.cu_seqlens.last() == Some(&tokens);
        let earlier = batch.prefixes.len() + 1 == batch.cu_seqlens.len()
            && batch.prefixes.iter().zip(&batch.cu_seqlens).all(|(prefix, own)| prefix.end <= *own);
        if !ends || !earlier || !batch.cu_seqlens.is_sorted() || batch.targets.len() != tokens {
            return Err(EngineError::input(format!(
                "a micro-batch of {tokens} tokens has {} targets and examples at {:?} that begin with {:?}",
                batch.targets.len(),
                batch.cu_seqlens,
                batch.prefixes
            )));
        }
        self.check_ids(&batch.input_ids)?;
        let vocab = self.spec.vocab_size;
        let bad = |target: &&i64| {
            **target != crate::data::IGNORED && !(0..vocab as i64).contains(*target)
        };
        match batch.targets.iter().find(bad) {
            None => Ok(()),
            Some(target) => Err(EngineError::input(format!(
                "label {target} is outside the model's vocabulary of {vocab}; \
                 is this the tokenizer of another model?"
            ))),
        }
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.spec.vocab_size;
        if ids.is_empty() {
            return Err(EngineError::input("no tokens, expected at least one"));
        }
        match ids.iter().position(|id| *id as usize >= vocab) {
            None => Ok(()),
            Some(at) => Err(EngineError::input(format!(
                "token {at} is {}, outside the model's vocabulary of {vocab}; \
                 is this the tokenizer of another model?",
                ids[at]
            ))),
        }
    }
}

/// What the tokens of each example see.
fn spans(batch: &MicroBatch) -> Vec<Span> {
    let examples = batch.examples().zip(&batch.prefixes);
    examples.map(|(own, prefix)| Span { prefix: prefix.clone(), ..Span::causal(own) }).collect()
}

fn scaled(x: Tensor, scale: f64) -> Result<Tensor> {
    if scale == 1.0 { Ok(x) } else { Ok((x * scale)?) }
}
