//! What a training run holds, moment by moment.
//!
//! ```text
//!   load ─▶ forward ─▶ head ─▶ backward, block by block from the top ─▶ step
//!                       │ all that is kept,      │ what the blocks below keep,      │ every gradient,
//!                       │ logits of one chunk    │ gradients of those above         │ nothing that was kept
//! ```
//!
//! No two of these are there together, so a run is as large as the largest of them.

use std::ops::Range;

use super::{CARD_SCORES, CHUNK_NUMBERS, Estimate, F32, PAGED_NUMBERS, SLAB_ROWS, TILE_NUMBERS};
use crate::memory_plan::{Keeps, MemoryPlan, head_rows, piece_tokens};
use crate::peft::{AdapterLayout, ModuleKind};
use crate::recipe::{Freeze, Method, Objective, OptimName, Quantization};
use crate::{AdapterConfig, ByteSize, Device, ModelSpec, NormPlacement, Recipe, held};

const BF16: u64 = 2;
/// Bytes that are read from a file at a time.
const PIECE: u64 = 1 << 20;
/// Bytes of a tokenizer for each token it knows.
const TOKENIZER: u64 = 512;

/// A run to be sized.
pub(super) struct Training<'a> {
    model: &'a ModelSpec,
    recipe: &'a Recipe,
    plan: &'a MemoryPlan,
    layout: Option<AdapterLayout>,
    config: Option<AdapterConfig>,
    /// Of what is learned from at the same time: a micro-batch, or a piece of one.
    tokens: u64,
    rows: u64,
    /// What a step's gradients are the sum of.
    portions: u64,
    /// Bytes of one number of an activation; on a card it is f32.
    number: u64,
    device: Device,
}

impl<'a> Training<'a> {
    pub(super) fn new(
        model: &'a ModelSpec,
        recipe: &'a Recipe,
        plan: &'a MemoryPlan,
        device: Device,
    ) -> Self {
        let (answers, length) = (recipe.objective.answers(), recipe.data.max_length);
        let micro_batch = recipe.batching.micro_batch;
        let most = piece_tokens(recipe, device).unwrap_or(usize::MAX);
        // Shorter rows fill a piece further than the longest do.
        let tokens = (micro_batch * answers * length).min(most.max(answers * length));
        let rows = tokens.div_ceil(length);
        // A recipe that fits its model has a layout.
        let config = AdapterConfig::of(&recipe.method, model, &recipe.model);
        let layout = config.as_ref().and_then(|config| config.layout(model).ok());
        Self {
            model,
            recipe,
            plan,
            layout,
            config,
            tokens: tokens as u64,
            rows: rows as u64,
            portions: (recipe.batching.accumulation * (micro_batch * answers).div_ceil(rows))
                as u64,
            number: if recipe.quantization.halves_activations(device) { BF16 } else { F32 },
            device,
        }
    }

    /// The moment that holds most.
    pub(super) fn peak(&self, runtime: ByteSize) -> Estimate {
        let always = Estimate {
            weights: ByteSize(held::weights(self.model, self.recipe.quantization)),
            adapter: ByteSize(self.adapter()),
            optimizer: ByteSize(self.optimizer()),
            runtime,
            ..Estimate::default()
        };
        let moments = self.backward(always).chain([
            self.loading(always),
            self.head(always),
            self.step(always),
        ]);
        moments.max_by_key(Estimate::total).unwrap_or(always)
    }

    /// The last tensors come in, and rows are tokenised, while there is no optimizer yet.
    fn loading(&self, always: Estimate) -> Estimate {
        let largest = F32 * self.largest();
        let table = F32 * self.table();
        // What is held in fewer bits is read as f32, one tensor after the other; an untied head is the last.
        let reading = match self.recipe.quantization {
            _ if self.device == Device::Cuda => 0,
            Quantization::Float32 => 0,
            Quantization::Bfloat16 if self.recipe.method == Method::Full => table + table / 2,
            how if how.computes_in_bf16() && !self.model.tie_word_embeddings => table,
            _ => largest,
        };
        Estimate {
            adapter: ByteSize(0),
            optimizer: ByteSize(0),
            workspace: ByteSize(reading + PIECE + TOKENIZER * self.model.vocab_size as u64),
            ..always
        }
    }

    /// Logits of one chunk, with everything that was kept.
    fn head(&self, always: Estimate) -> Estimate {
        let (h, v) = (self.model.hidden_size as u64, self.model.vocab_size as u64);
        // The last position of an example predicts nothing; a reward model has no logits at all.
        let labelled = match self.recipe.objective {
            Objective::Reward(_) => 0,
            _ => self.tokens.saturating_sub(self.rows),
        };
        let rows = labelled.min(head_rows(self.number == BF16) as u64);
        // A soft cap needs what it made beside the gradient, whose rounded copy is what is multiplied.
        let capped = if self.model.final_logit_softcapping.is_some() { F32 } else { 0 };
        let rounded = if self.recipe.quantization.computes_in_bf16() { BF16 } else { 0 };
        // Input, normed, gradients of both.
        let around = h * (3 * F32 + self.number + self.rounding());
        let logits = rows * (v * (F32 + capped + rounded) + around);
        // One half of the product turned; in f32 what the product lays out of both.
        let learning = match self.head_parameters() {
            0 => 0,
            _ if self.number == BF16 => SLAB_ROWS as u64 * BF16 * rows,
            _ => SLAB_ROWS as u64 * F32 * h,
        };
        // The end of the residual stream and its gradient.
        let stream = 2 * self.boundary();
        Estimate {
            activations: ByteSize(self.kept(self.lowest()..self.model.num_hidden_layers) + stream),
            logits: ByteSize(logits + learning),
            gradients: ByteSize(if self.accumulates() {
                self.gradients()
            } else {
                self.head_gradient()
            }),
            workspace: ByteSize(self.buffers()),
            ..always
        }
    }

    /// Each block's turn, with what those below it keep and the gradients of those above.
    fn backward(&self, always: Estimate) -> impl Iterator<Item = Estimate> {
        let blocks = self.model.num_hidden_layers;
        let learning = (blocks - self.lowest()) as u64;
        let of_block = (self.trained() - self.head_parameters()) * F32 / learning.max(1);
        (self.lowest()..blocks).map(move |index| {
            let here = match self.plan.of_block(index, blocks) {
                Keeps::Everything => 0,
                Keeps::AllButGates => self.gates(),
                Keeps::Input => self.saved() - self.boundary(),
            };
            let above = (blocks - index) as u64;
            let gradients = if self.recipe.optim.in_backward {
                self.head_gradient() + of_block
            } else if self.accumulates() {
                self.gradients()
            } else {
                self.gradients().min(self.head_gradient() + above * of_block)
            };
            Estimate {
                activations: ByteSize(self.kept(self.lowest()..index + 1) + here),
                gradients: ByteSize(gradients),
                workspace: ByteSize(self.moment() + self.buffers()),
                ..always
            }
        })
    }

    /// Every gradient at once, and what moves one tensor.
    fn step(&self, always: Estimate) -> Estimate {
        let full = matches!(self.recipe.method, Method::Full | Method::Freeze(_));
        let largest = if full { self.table().max(self.largest()) } else { 0 };
        let gradients =
            if self.recipe.optim.in_backward { F32 * largest } else { self.gradients() };
        let bf16 = self.recipe.quantization == Quantization::Bfloat16;
        // Whole tensors are widened where their rows and columns are looked at; sums of columns in f64, for every 64
        // rows.
        let (widened, sums) = match self.recipe.optim.name {
            OptimName::Adafactor => (if bf16 { F32 * largest } else { 0 }, largest / 64 * 8),
            _ => (0, 0),
        };
        Estimate {
            gradients: ByteSize(gradients),
            workspace: ByteSize(widened + sums + self.buffers()),
            ..always
        }
    }

    /// The lowest block something in or below which learns.
    fn lowest(&self) -> usize {
        let blocks = self.model.num_hidden_layers;
        match (&self.recipe.method, &self.layout) {
            (Method::Freeze(freeze), _) if freeze.patterns.is_empty() && freeze.layers > 0 => {
                blocks - freeze.layers.unsigned_abs().min(blocks as u64) as usize
            }
            (_, Some(layout)) if layout.copied == 0 => {
                let adapted = layout.modules.iter().map(|module| match module.kind {
                    ModuleKind::Embedding => 0,
                    ModuleKind::Linear => ModelSpec::block_of(&module.name).unwrap_or(0),
                    ModuleKind::Head => blocks,
                });
                adapted.min().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Bytes of the residual stream between two blocks.
    fn boundary(&self) -> u64 {
        self.tokens * self.model.hidden_size as u64 * F32
    }

    /// Bytes of gate and up in one block.
    fn gates(&self) -> u64 {
        self.tokens * 2 * self.model.intermediate_size as u64 * self.number
    }

    /// Bytes that one block keeps where it keeps everything: its input, the stream between its halves, q, k, v,
    /// attention's output, gate, up; of each head a log-sum-exp, of each norm a rstd; and what adapters keep. A norm
    /// after a half keeps what it norms.
    fn saved(&self) -> u64 {
        let model = self.model;
        let h = model.hidden_size as u64;
        let (q, kv) = (model.query_width() as u64, model.key_value_width() as u64);
        let heads = model.num_attention_heads as u64;
        let (normed, rstds) = match model.norm_placement {
            NormPlacement::Pre => (0, 2),
            NormPlacement::Sandwich => (2 * h, 4),
        };
        let head_norms = if model.qk_norm { heads + model.num_key_value_heads as u64 } else { 0 };
        let blocks = (model.num_hidden_layers - self.lowest()).max(1) as u64;
        let beside = self.layout.as_ref().map_or(0, |layout| layout.saved_per_token);
        let activations = 2 * q + 2 * kv + normed + beside.div_ceil(blocks);
        let exact = 2 * h + heads + rstds + head_norms;
        self.tokens * (activations * self.number + exact * F32) + self.gates()
    }

    /// Bytes that these blocks keep.
    fn kept(&self, blocks: Range<usize>) -> u64 {
        let all = self.model.num_hidden_layers;
        let (saved, gates) = (self.saved(), self.gates());
        let of = |index| match self.plan.of_block(index, all) {
            Keeps::Everything => saved,
            Keeps::AllButGates => saved - gates,
            Keeps::Input => self.boundary(),
        };
        blocks.map(of).sum()
    }

    /// Bytes that a block's backward pass holds at its widest, beside what the block kept.
    fn moment(&self) -> u64 {
        let model = self.model;
        let (h, f) = (model.hidden_size as u64, model.intermediate_size as u64);
        let (q, kv) = (model.query_width() as u64, model.key_value_width() as u64);
        let number = self.number;
        // What comes down, and its copy for products, which a norm after the half makes as well.
        let copied = number == BF16 || model.norm_placement == NormPlacement::Sandwich;
        let down = h * F32 + if copied { h * number } else { 0 };
        // In the MLP gradients of the activation, gate and up; where inputs are dropped out, the activation, what is
        // left of it, its gradient, and that of the adapter's part before and after. Without, those of the activation
        // and its own while a weight's gradient is made.
        let dropout = matches!(&self.recipe.method, Method::Lora(lora) if lora.dropout > 0.0);
        let in_mlp =
            down + if dropout { 5 * f } else { 3 * f } * number + (f + h) * self.rounding();
        let product = match self.recipe.method {
            Method::Full | Method::Freeze(_) => self.largest() * F32,
            Method::Lora(_) | Method::Ia3(_) => 0,
        };
        let in_product = self.tokens * (down + f * number) + product;
        // In attention, when the MLP's part is gone: gradients of its output and of q, k and v in parts and whole, and
        // normed q and k made again.
        let again = if model.qk_norm { q + kv } else { 0 };
        let in_attention = h * F32 + (3 * q + 4 * kv + again) * number;
        let gone = 2 * f * number + h * F32;
        let in_attention = self.tokens * in_attention + self.scores();
        let in_attention = in_attention.saturating_sub(self.tokens * gone);
        (self.tokens * in_mlp).max(in_attention).max(in_product)
    }

    /// Bytes of the copy that a card rounds a number of a factor or of a product to.
    fn rounding(&self) -> u64 {
        let halved = self.recipe.quantization.computes_in_bf16();
        if halved && self.device == Device::Cuda { BF16 } else { 0 }
    }

    /// Bytes of attention's scores and their gradients, of which a card makes a tile as whole tensors.
    fn scores(&self) -> u64 {
        let length = self.recipe.data.max_length as u64;
        match self.device {
            Device::Cpu => 0,
            Device::Cuda => {
                let example = self.model.num_attention_heads as u64 * length * length;
                2 * F32 * example.min(CARD_SCORES as u64)
            }
        }
    }

    /// Bytes of what a pass has at hand: how far heads turn at each token, and room to lay out and unpack weights.
    fn buffers(&self) -> u64 {
        let tables = if self.model.rope_local_base_freq.is_some() { 2 } else { 1 };
        let angles = self.tokens * self.model.head_dim as u64 * F32 * tables;
        let how = self.recipe.quantization;
        let largest = self.largest();
        let panels = BF16 * CHUNK_NUMBERS as u64;
        let tile = TILE_NUMBERS as u64 * if self.rounding() > 0 { BF16 } else { F32 };
        let unpacks = held::unpacks(self.model, how);
        let room = match (self.device, how) {
            (Device::Cpu, Quantization::Bfloat16) => panels,
            (Device::Cpu, how) if how.computes_in_bf16() => panels + BF16 * largest,
            _ if unpacks => tile,
            _ => 0,
        };
        angles + room
    }

    /// Numbers of a block's largest weight.
    fn largest(&self) -> u64 {
        self.model.linears().iter().map(|(_, out, inp)| out * inp).max().unwrap_or(0) as u64
    }

    /// Numbers of the embedding.
    fn table(&self) -> u64 {
        (self.model.vocab_size * self.model.hidden_size) as u64
    }

    /// Bytes of the adapter: its numbers; what it took from the base, to be given back at the end; of each of DoRA's
    /// magnitudes the squared length of its row, in f64, the length's inverse and the factor.
    fn adapter(&self) -> u64 {
        let (Some(config), Some(layout)) = (&self.config, &self.layout) else { return 0 };
        let numbers = F32 * layout.parameters;
        let taken = if config.init_lora_weights.changes_base() { numbers } else { 0 };
        let rows: usize = layout.modules.iter().map(|module| module.out_features).sum();
        let lengths = if config.use_dora { 4 * F32 * rows as u64 } else { 0 };
        numbers + taken + lengths
    }

    fn adapter_parameters(&self) -> u64 {
        self.layout.as_ref().map_or(0, |layout| layout.parameters)
    }

    /// Numbers that learn.
    fn trained(&self) -> u64 {
        match &self.recipe.method {
            Method::Full => self.model.parameters(),
            Method::Freeze(freeze) => frozen_but(self.model, freeze),
            Method::Lora(_) | Method::Ia3(_) => self.adapter_parameters(),
        }
    }

    /// Numbers that learn and whose gradient the head makes; with the embedding where it is the head.
    fn head_parameters(&self) -> u64 {
        match &self.recipe.method {
            Method::Full => self.table(),
            Method::Freeze(freeze) if freeze.patterns.is_empty() => 0,
            Method::Freeze(_) => self.table(),
            Method::Lora(_) | Method::Ia3(_) => {
                self.layout.as_ref().map_or(0, |layout| layout.copied).min(self.table())
            }
        }
    }

    fn head_gradient(&self) -> u64 {
        F32 * self.head_parameters()
    }

    /// Whether earlier gradients are there when more are made.
    fn accumulates(&self) -> bool {
        self.portions > 1
    }

    /// Bytes of all gradients together.
    fn gradients(&self) -> u64 {
        F32 * self.trained()
    }

    /// Bytes of the optimizer's state, as `engine`'s `optim` keeps it.
    fn optimizer(&self) -> u64 {
        let (model, recipe, count) = (self.model, self.recipe, self.trained());
        // One code for each number and one f32 for each block of 256.
        let eight_bits = |moments: u64| moments * (count + count / 256 * F32);
        // Paged states visit memory a piece at a time, as bytes and as numbers.
        let visiting = |bytes: u64| bytes.min(2 * PAGED_NUMBERS * (bytes / count.max(1) + 1));
        match recipe.optim.name {
            _ if self.device == Device::Cuda && !recipe.optim.lives_on_cards() => 0,
            OptimName::AdamwTorch => 2 * F32 * count,
            OptimName::AdamwAnyprecision => recipe.optim.moment_bytes() * count,
            OptimName::PagedAdamw32bit => visiting(2 * F32 * count),
            OptimName::Adamw8bit => eight_bits(2),
            OptimName::PagedAdamw8bit => visiting(eight_bits(2)),
            OptimName::Lion32bit => F32 * count,
            OptimName::Lion8bit => eight_bits(1),
            OptimName::Sgd if recipe.optim.sgd_momentum > 0.0 => F32 * count,
            OptimName::Sgd => 0,
            OptimName::Adafactor => {
                // A row and a column for each matrix: the base's, or an adapter's pair.
                let r = match &recipe.method {
                    Method::Lora(lora) => 2 * lora.r,
                    _ => 0,
                };
                let block: usize = model.linears().iter().map(|(_, out, inp)| out + inp + r).sum();
                let ends = 2 * (model.vocab_size + model.hidden_size);
                ((model.num_hidden_layers * block + ends) as u64 * F32).min(F32 * count)
            }
        }
    }
}

/// What learns of a model that is mostly frozen; all of it where names decide, which is never too little.
fn frozen_but(model: &ModelSpec, freeze: &Freeze) -> u64 {
    if !freeze.patterns.is_empty() {
        return model.parameters();
    }
    let tables =
        if model.tie_word_embeddings { 1 } else { 2 } * model.vocab_size * model.hidden_size;
    let blocks = model.parameters() - (tables + model.hidden_size) as u64;
    let layers = model.num_hidden_layers as u64;
    blocks / layers * freeze.layers.unsigned_abs().min(layers)
}
