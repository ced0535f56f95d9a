//! How much memory a job will need, piece by piece.
//!
//! The pieces mirror what `engine` allocates: see its `ops` for what a block saves. The sizes are exact where the
//! engine's are (weights, adapter, gradients, moments); activations follow the block's saved tensors, workspace the widest
//! moment of its backward pass; runtime is what is left, fitted to measured peaks.

use serde::{Deserialize, Serialize};

use crate::recipe::{CheckpointingLevel, Freeze, Method};
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
    /// Two moments per trained parameter.
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

/// Tokens of the prompt whose logits a merge compares.
pub const MERGE_PROMPT_TOKENS: usize = 32;

const F32: u64 = 4;

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
        let layout = AdapterConfig::of(&recipe.method, model, &recipe.model);
        let layout = layout.and_then(|config| config.layout(model).ok());
        let adapter = layout.as_ref().map_or(0, |layout| layout.parameters * F32);
        let beside = layout.as_ref().map_or(0, |layout| layout.saved_per_token);
        let trained = match &recipe.method {
            Method::Full => model.parameters() * F32,
            Method::Freeze(freeze) => freeze_parameters(model, freeze) * F32,
            Method::Lora(_) | Method::Ia3(_) => adapter,
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
        let head_norms = if model.qk_norm { heads + model.num_key_value_heads as u64 } else { 0 };
        let saved_per_token = 2 * h + 2 * q + 2 * kv + 2 * f + heads + 2 + beside.div_ceil(layers);
        let saved_per_block = tokens * (saved_per_token + out_norms + head_norms) * F32;
        let boundary = tokens * h * F32;
        let activations = if recipe.gradient_checkpointing == CheckpointingLevel::Block {
            layers * boundary + saved_per_block
        } else {
            layers * saved_per_block + boundary
        };
        let chunk = HEAD_CHUNK_ROWS.min(tokens as usize) as u64;
        // A soft cap needs what it made beside the gradient.
        let copies = if model.final_logit_softcapping.is_some() { 2 } else { 1 };
        // The widest moment of a backward pass is one of two: in the MLP gradients of the residual, the activation,
        // gate and up; in attention those of the residual, its output, and q, k and v in parts and whole, beside
        // normed q and k made again.
        let again = if model.qk_norm { q + kv } else { 0 };
        let widest = (3 * f + h).max(h + q + 2 * (q + 2 * kv) + again);
        // A full run also makes one weight's gradient before it is added to those of earlier micro-batches.
        let product = match &recipe.method {
            Method::Lora(_) | Method::Ia3(_) => 0,
            Method::Full | Method::Freeze(_) => {
                let largest = model.linears().iter().map(|(_, out, inp)| out * inp).max();
                largest.unwrap_or(0) as u64 * F32
            }
        };
        // Weights of few bits are unpacked a tile at a time; products copy no more than that again.
        let tile =
            if held::unpacks(model, recipe.quantization) { TILE_NUMBERS as u64 * F32 } else { 0 };
        Self {
            weights: ByteSize(weights),
            adapter: ByteSize(adapter),
            gradients: ByteSize(trained),
            optimizer: ByteSize(2 * trained),
            activations: ByteSize(activations),
            logits: ByteSize(copies * chunk * model.vocab_size as u64 * F32),
            workspace: ByteSize(tokens * widest * F32 + product + tile),
            runtime: runtime(device),
        }
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

fn runtime(device: Device) -> ByteSize {
    ByteSize(match device {
        Device::Cpu => 48 << 20,
        Device::Cuda => 640 << 20,
    })
}
