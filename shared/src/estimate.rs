//! How much memory a job will need, piece by piece.
//!
//! The pieces mirror what `engine` allocates: see its `ops` for what a block saves. The sizes are exact where the
//! engine's are (weights, adapter, gradients, moments); activations follow the block's saved tensors, workspace the widest
//! moment of its backward pass; runtime is what is left, fitted to measured peaks.

use serde::{Deserialize, Serialize};

use crate::recipe::{CheckpointingLevel, Freeze, Method, OptimName, Quantization};
use crate::{AdapterConfig, ByteSize, Device, ModelSpec, NormPlacement, Recipe, held};

/// One piece of an estimate: its name and its bytes.
pub type EstimatePart = (&'static str, ByteSize);

/// A job's memory as a breakdown, never only a sum. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// The base model.
    pub weights: ByteSize,
    /// The adapter's parameters.
    pub adapter: ByteSize,
    /// One gradient buffer per trained tensor.
    pub gradients: ByteSize,
    /// What the optimizer remembers of each trained parameter.
    pub optimizer: ByteSize,
    /// What blocks keep from the forward to the backward pass.
    pub activations: ByteSize,
    /// Logits of one chunk of labelled positions, which become their own gradient.
    pub logits: ByteSize,
    /// What one block's backward pass holds for a moment besides.
    pub workspace: ByteSize,
    /// The process itself: tokenizer, rows, driver context.
    pub runtime: ByteSize,
}

/// Labelled positions whose logits exist at the same time.
pub const HEAD_CHUNK_ROWS: usize = 128;

/// Numbers of a quantised weight that exist as f32 at the same time, unless one row has more (1 MiB).
pub const TILE_NUMBERS: usize = 1 << 18;

/// Numbers of a weight that are laid out for a product in bf16 at the same time, unless the result is bf16 as well: then
/// the whole weight is.
pub const CHUNK_NUMBERS: usize = 1 << 21;

/// Tokens of the prompt whose logits a merge compares.
pub const MERGE_PROMPT_TOKENS: usize = 32;

const F32: u64 = 4;
const BF16: u64 = 2;

/// Numbers whose paged optimizer states are in memory at the same time.
pub const PAGED_NUMBERS: u64 = 1 << 20;

impl Estimate {
    /// The pieces by name, largest concerns first as a reader expects them.
    #[must_use]
    pub fn parts(&self) -> [EstimatePart; 8] {
        [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
            ("workspace", self.workspace),
            ("runtime", self.runtime),
        ]
    }

    /// All pieces together.
    #[must_use]
    pub fn total(&self) -> ByteSize {
        ByteSize(self.parts().iter().map(|(_, bytes)| bytes.0).sum())
    }

    /// Sizes a training run of `recipe` on `model`: the longest micro-batch the recipe allows.
    #[must_use]
    pub fn of_training(model: &ModelSpec, recipe: &Recipe, device: Device) -> Self {
        let rows = recipe.batching.micro_batch * recipe.objective.answers();
        let tokens = (rows * recipe.data.max_length) as u64;
        let weights = held::weights(model, recipe.quantization);
        // A recipe that fits its model has a layout.
        let config = AdapterConfig::of(&recipe.method, model, &recipe.model);
        let layout = config.as_ref().and_then(|config| config.layout(model).ok());
        let learning = layout.as_ref().map_or(0, |layout| layout.parameters * F32);
        // What a pair took from the base is remembered, to be given back at the end.
        let taken = config.is_some_and(|config| config.init_lora_weights.changes_base());
        let adapter = if taken { 2 * learning } else { learning };
        let beside = layout.as_ref().map_or(0, |layout| layout.saved_per_token);
        let trained = match &recipe.method {
            Method::Full => model.parameters() * F32,
            Method::Freeze(freeze) => freeze_parameters(model, freeze) * F32,
            Method::Lora(_) | Method::Ia3(_) => learning,
        };
        let (h, f) = (model.hidden_size as u64, model.intermediate_size as u64);
        let (q, kv) = (model.query_width() as u64, model.key_value_width() as u64);
        let heads = model.num_attention_heads as u64;
        let layers = model.num_hidden_layers as u64;
        // Residual in, residual between, q, k, v, attention out, gate, up; per head a log-sum-exp, per norm a rstd,
        // and what adapters keep. A norm after a half keeps what it norms, one of heads only
        // their rstd.
        let out_norms = match model.norm_placement {
            NormPlacement::Pre => 0,
            NormPlacement::Sandwich => 2 * (h + 1),
        };
        // Residual stream and what sums are kept in stay f32; the rest is made as activations are.
        let bf16 = recipe.quantization.computes_in_bf16();
        let number = if bf16 { BF16 } else { F32 };
        let head_norms = if model.qk_norm { heads + model.num_key_value_heads as u64 } else { 0 };
        let activations = 2 * q + 2 * kv + 2 * f + out_norms + beside.div_ceil(layers);
        let exact = 2 * h + heads + 2 + head_norms;
        let saved_per_block = tokens * (activations * number + exact * F32);
        let boundary = tokens * h * F32;
        let activations = match recipe.gradient_checkpointing {
            CheckpointingLevel::None => layers * saved_per_block + boundary,
            // Gate and up exist in one block at a time.
            CheckpointingLevel::Selective => {
                let shed = tokens * 2 * f * number;
                layers * (saved_per_block - shed) + shed + boundary
            }
            // The most that `auto` falls back to.
            CheckpointingLevel::Block | CheckpointingLevel::Auto => {
                layers * boundary + saved_per_block
            }
        };
        let chunk = HEAD_CHUNK_ROWS.min(tokens as usize) as u64;
        // A soft cap needs what it made beside the gradient.
        let copies = if model.final_logit_softcapping.is_some() { 2 * F32 } else { F32 };
        // Their gradient is made bf16 before it is multiplied.
        let copies = if bf16 { copies + BF16 } else { copies };
        // The widest moment of a backward pass is one of two: in the MLP gradients of the residual, the activation,
        // gate and up; in attention those of the residual, its output, and q, k and v in parts and whole, beside
        // normed q and k made again.
        let again = if model.qk_norm { q + kv } else { 0 };
        let in_mlp = (3 * f * number + h * F32).max((2 * f + h) * number + 2 * h * F32);
        let in_attention = h * F32 + (q + 2 * (q + 2 * kv) + again) * number;
        let widest = in_mlp.max(in_attention);
        // A full run also makes one weight's gradient before it is added to those of earlier micro-batches.
        let largest = model.linears().iter().map(|(_, out, inp)| out * inp).max();
        let largest = largest.unwrap_or(0) as u64;
        let product = match &recipe.method {
            Method::Lora(_) | Method::Ia3(_) => 0,
            Method::Full | Method::Freeze(_) => largest * F32,
        };
        // Weights of few bits are unpacked a tile at a time; products copy no more than that again. In bf16 they are
        // laid out for the product chunk by chunk, and unpacked before that unless they are bf16.
        let chunk_of_weight = BF16 * largest.max(CHUNK_NUMBERS as u64);
        let tile = match recipe.quantization {
            Quantization::Bfloat16 => chunk_of_weight,
            _ if bf16 => 2 * chunk_of_weight,
            how if held::unpacks(model, how) => TILE_NUMBERS as u64 * F32,
            _ => 0,
        };
        Self {
            weights: ByteSize(weights),
            adapter: ByteSize(adapter),
            gradients: ByteSize(gradients(model, recipe, trained)),
            optimizer: ByteSize(optimizer(model, recipe, trained / F32)),
            activations: ByteSize(activations),
            logits: ByteSize(copies * chunk * model.vocab_size as u64),
            workspace: ByteSize(tokens * widest + product + tile),
            runtime: runtime(device),
        }
    }

    /// The first of `none`, `selective` and `block` whose estimate stays within `limit`; `block` where none does, and
    /// `none` without a limit.
    #[must_use]
    pub fn checkpointing_within(
        model: &ModelSpec,
        recipe: &Recipe,
        device: Device,
        limit: Option<ByteSize>,
    ) -> CheckpointingLevel {
        let Some(limit) = limit else { return CheckpointingLevel::None };
        let fits = |level: &CheckpointingLevel| {
            let mut recipe = recipe.clone();
            recipe.gradient_checkpointing = *level;
            Self::of_training(model, &recipe, device).total() <= limit
        };
        let levels = [CheckpointingLevel::None, CheckpointingLevel::Selective];
        levels.into_iter().find(fits).unwrap_or(CheckpointingLevel::Block)
    }

    /// Sizes a merge: the base, then the merged model, one after the other to compare their logits. Writing the
    /// merged weights takes less, a tensor at a time.
    #[must_use]
    pub fn of_merge(model: &ModelSpec, device: Device) -> Self {
        let logits = 2 * MERGE_PROMPT_TOKENS * model.vocab_size;
        Self {
            weights: ByteSize(model.parameters() * F32),
            logits: ByteSize(logits as u64 * F32),
            // The adapter, whose rank a merge's order does not tell, and one block's forward pass.
            workspace: ByteSize(4 * (model.hidden_size * model.intermediate_size) as u64 * F32),
            runtime: runtime(device),
            ..Self::default()
        }
    }
}

/// What learns of a model that is mostly frozen; all of it where names decide, which is never too little.
fn freeze_parameters(model: &ModelSpec, freeze: &Freeze) -> u64 {
    if !freeze.patterns.is_empty() {
        return model.parameters();
    }
    let tables =
        if model.tie_word_embeddings { 1 } else { 2 } * model.vocab_size * model.hidden_size;
    let blocks = model.parameters() - (tables + model.hidden_size) as u64;
    let layers = model.num_hidden_layers as u64;
    blocks / layers * freeze.layers.unsigned_abs().min(layers)
}

/// Bytes of gradients: one for everything that learns, or, where the optimizer steps in the backward pass, those of one
/// block beside that of the embedding, which is whole only at the end.
fn gradients(model: &ModelSpec, recipe: &Recipe, trained: u64) -> u64 {
    if !recipe.optim.in_backward {
        return trained;
    }
    let block: usize = model.linears().iter().map(|(_, out, inp)| out * inp).sum();
    let embedding = model.vocab_size * model.hidden_size;
    trained.min((block + embedding) as u64 * F32)
}

/// Bytes of the optimizer's state for `count` numbers, as `engine`'s `optim` keeps it.
fn optimizer(model: &ModelSpec, recipe: &Recipe, count: u64) -> u64 {
    // One code for each number and one f32 for each block of 256.
    let eight_bits = |moments: u64| moments * (count + count / 256 * F32);
    // Paged states visit memory a piece at a time, as bytes and as numbers.
    let visiting = |bytes: u64| bytes.min(2 * PAGED_NUMBERS * (bytes / count.max(1) + 1));
    match recipe.optim.name {
        OptimName::AdamwTorch => 2 * F32 * count,
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

fn runtime(device: Device) -> ByteSize {
    ByteSize(match device {
        Device::Cpu => 48 << 20,
        Device::Cuda => 640 << 20,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(keys: &str) -> (ModelSpec, Recipe, Estimate) {
        let config = r#"{"model_type":"llama","hidden_size":576,"intermediate_size":1536,"num_hidden_layers":30,
            "num_attention_heads":9,"num_key_value_heads":3,"vocab_size":49152,"max_position_embeddings":2048,
            "rms_norm_eps":1e-5,"tie_word_embeddings":true}"#;
        let model = ModelSpec::from_hf_config(config).unwrap();
        let text = format!("model_name_or_path: m\ndataset_name: d\nmax_length: 512\n{keys}");
        let recipe = Recipe::read(&text).unwrap();
        let estimate = Estimate::of_training(&model, &recipe, Device::Cpu);
        (model, recipe, estimate)
    }

    #[test]
    fn optimizers_hold_what_their_numbers_take() {
        let full = |keys: &str| sized(&format!("use_peft: false\n{keys}")).2;
        let (weights, held) = (full("").weights.0, |keys: &str| full(keys).optimizer.0);
        assert_eq!(held(""), 2 * weights);
        assert_eq!(held("optim: lion_32bit"), weights);
        assert_eq!(held("optim: sgd"), 0);
        let per_number = held("optim: adamw_8bit") as f64 / (weights / 4) as f64;
        assert!((2.03..2.04).contains(&per_number), "{per_number}");
        assert!(held("optim: paged_adamw_32bit") < 24 << 20);
        assert!(held("optim: adafactor") < weights / 100);
        let backward = full("optimizer_in_backward: true\nmax_grad_norm: 0");
        assert!(backward.gradients.0 < weights / 3, "one block and the embedding");
    }

    #[test]
    fn auto_takes_the_first_level_that_fits() {
        let (model, recipe, _) = sized("gradient_checkpointing: auto");
        let total = |level| {
            let mut recipe = recipe.clone();
            recipe.gradient_checkpointing = level;
            Estimate::of_training(&model, &recipe, Device::Cpu).total()
        };
        use CheckpointingLevel::{Auto, Block, None, Selective};
        assert!(total(None) > total(Selective) && total(Selective) > total(Block));
        assert_eq!(total(Auto), total(Block), "what it asks for at least");
        let within = |limit| Estimate::checkpointing_within(&model, &recipe, Device::Cpu, limit);
        assert_eq!(within(Option::None), None);
        for level in [None, Selective, Block] {
            assert_eq!(within(Some(total(level))), level);
        }
        assert_eq!(within(Some(ByteSize(1))), Block);
    }
}
