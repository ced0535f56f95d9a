//! How much memory a job will need, piece by piece.
//!
//! The pieces mirror what `engine` allocates, tensor by tensor (see [`training`]); runtime is what is left, fitted to
//! measured peaks. Other runtimes are sized by [`torch`], as PyTorch allocates.
//!
//! ```text
//!   Recipe + Sizer ──▶ Bounded ──Card──▶ Headroom ──▶ advice: what else would fit
//!            │         estimate, low..high
//!            ├─ Fleetune: ModelSpec  ─▶ training
//!            └─ Torch:    ModelShape ─▶ torch
//! ```

mod advice;
mod bounded;
mod fit;
mod headroom;
mod sizer;
mod torch;
mod training;

use serde::{Deserialize, Serialize};

use self::training::Training;
use crate::memory_plan::MemoryPlan;
use crate::{ByteSize, Device, ModelSpec, Recipe};

pub use advice::{Change, changed, changes_to_fit, longest_length, most_rows};
pub use bounded::Bounded;
pub use fit::Fit;
pub use headroom::Headroom;
pub use sizer::Sizer;
pub use torch::{Attention, CardClass, Meter, Precision, Runtime, TorchSetting};

/// One piece of an estimate: its name and its bytes.
pub type EstimatePart = (&'static str, ByteSize);

/// A job's memory as a breakdown, never only a sum: the pieces that are there at the moment that holds most, so that one
/// which is never there together with the others may be 0. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// The base model.
    pub weights: ByteSize,
    /// The adapter's parameters.
    pub adapter: ByteSize,
    /// Gradient buffers of trained tensors.
    pub gradients: ByteSize,
    /// What the optimizer remembers of each trained parameter.
    pub optimizer: ByteSize,
    /// What blocks keep from the forward to the backward pass.
    pub activations: ByteSize,
    /// Logits of one chunk of labelled positions, which become their own gradient, and what the head needs besides.
    pub logits: ByteSize,
    /// What one block's backward pass or one tensor's step holds for a moment besides, and buffers of products.
    pub workspace: ByteSize,
    /// The process itself: rows, threads, driver context.
    pub runtime: ByteSize,
}

/// Scores of attention that exist on a card at a time.
pub const CARD_SCORES: usize = 1 << 24;

/// Numbers of a quantised weight that exist as f32 at the same time, unless one row has more (1 MiB).
pub const TILE_NUMBERS: usize = 1 << 18;

/// Numbers of a weight that are unpacked for a product in bf16 at the same time, unless its columns are summed into bf16:
/// then the whole weight is. About as many are laid out at the same time by all tasks together.
pub const CHUNK_NUMBERS: usize = 1 << 21;

/// Tokens of the prompt whose logits a merge compares.
pub const MERGE_PROMPT_TOKENS: usize = 32;

const F32: u64 = 4;

/// Rows of a large weight's gradient that are made at the same time: a product cannot add to its result, so a slab is
/// made and then added.
pub const SLAB_ROWS: usize = 4096;

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
        ByteSize(self.parts().iter().fold(0, |sum, (_, bytes)| sum.saturating_add(bytes.0)))
    }

    /// Sizes a training run of `recipe` on `model`: the longest micro-batch the recipe allows, at the moment that holds
    /// most. `gradient_checkpointing: auto` is sized at the least it can do with.
    #[must_use]
    pub fn of_training(model: &ModelSpec, recipe: &Recipe, device: Device) -> Self {
        let plan = MemoryPlan::uniform(recipe.gradient_checkpointing);
        Self::of_plan(model, recipe, device, &plan)
    }

    /// As [`Self::of_training`], of a run whose blocks keep what `plan` says.
    #[must_use]
    pub fn of_plan(model: &ModelSpec, recipe: &Recipe, device: Device, plan: &MemoryPlan) -> Self {
        Training::new(model, recipe, plan, device).peak(runtime_bytes(device))
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
            runtime: runtime_bytes(device),
            ..Self::default()
        }
    }
}

/// What a process takes before it has a tensor: on a card the driver's context and the kernels.
#[must_use]
pub fn runtime_bytes(device: Device) -> ByteSize {
    ByteSize(match device {
        Device::Cpu => 12 << 20,
        Device::Cuda => 640 << 20,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(keys: &str) -> Estimate {
        let config = r#"{"model_type":"llama","hidden_size":576,"intermediate_size":1536,"num_hidden_layers":30,
            "num_attention_heads":9,"num_key_value_heads":3,"vocab_size":49152,"max_position_embeddings":2048,
            "rms_norm_eps":1e-5,"tie_word_embeddings":true}"#;
        let model = ModelSpec::from_hf_config(config).unwrap();
        let text = format!("model_name_or_path: m\ndataset_name: d\nmax_length: 512\n{keys}");
        let recipe = Recipe::read(&text).unwrap();
        Estimate::of_training(&model, &recipe, Device::Cpu)
    }

    #[test]
    fn optimizers_hold_what_their_numbers_take() {
        let full = |keys: &str| sized(&format!("use_peft: false\n{keys}"));
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
}
