//! What a PyTorch runtime holds for a recipe: transformers with PEFT and bitsandbytes, and those like it.
//!
//! ```text
//!   forward ─▶ head ─────▶ backward ─────────────▶ step
//!              │ kept,      │ kept, one block made   │ every gradient,
//!              │ logits     │ again, its gradients,  │ what moves it
//!              │            │ unpacked weights       │
//! ```
//!
//! `max_memory_allocated` sees the largest of these. What the driver sees is more: PyTorch's allocator keeps the blocks of
//! one moment, and those of another find no room in them, so that head and backward add up; and there is the context.
//! Every coefficient is a tensor that PyTorch makes, named where it stands; none is fitted.
//! `shared/tests/published.rs` holds the sum against published measurements.

mod base;
mod context;
mod conventions;
mod kept;
mod trained;

use super::{Bounded, Estimate};
use crate::model_shape::ModelShape;
use crate::recipe::{CheckpointingLevel, Objective, Quantization};
use crate::{ByteSize, Recipe};

pub use context::CardClass;
pub use conventions::{Attention, Meter, Precision, Runtime, TorchSetting};

/// Bytes of f32.
const F32: u128 = 4;
/// Bytes of bf16 and f16.
const HALF: u128 = 2;

/// Bytes as a size; what no machine has is the largest there is.
fn size(bytes: u128) -> ByteSize {
    ByteSize(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// A run to be sized.
pub(super) struct TorchRun<'a> {
    shape: &'a ModelShape,
    recipe: &'a Recipe,
    setting: &'a TorchSetting,
    precision: Precision,
    /// Of the micro-batch that is learned from.
    rows: u128,
    tokens: u128,
}

impl<'a> TorchRun<'a> {
    pub(super) fn new(
        shape: &'a ModelShape,
        recipe: &'a Recipe,
        setting: &'a TorchSetting,
    ) -> Self {
        let rows = recipe.batching.micro_batch as u128 * recipe.objective.answers() as u128;
        Self {
            shape,
            recipe,
            setting,
            precision: setting.precision_of(recipe),
            rows,
            tokens: rows * recipe.data.max_length as u128,
        }
    }

    /// The moment that holds most, as the meter sees it, and what is trusted of it.
    pub(super) fn bounded(&self) -> Bounded {
        let always = Estimate {
            weights: size(self.weights()),
            adapter: size(self.adapter()),
            optimizer: size(self.optimizer()),
            runtime: size(self.context()),
            ..Estimate::default()
        };
        let accumulated = if self.recipe.batching.accumulation > 1 { self.gradients() } else { 0 };
        let head = Estimate {
            activations: size(self.kept()),
            logits: size(self.logits()),
            gradients: size(accumulated.max(self.head_gradient())),
            workspace: size(self.casts() + self.buckets()),
            ..always
        };
        let block = self.in_block() + self.unpacked();
        let backward = Estimate {
            activations: head.activations,
            gradients: head.gradients,
            workspace: size(self.casts() + self.buckets() + block),
            ..always
        };
        let step = Estimate {
            gradients: size(self.gradients()),
            workspace: size(self.in_step() + self.buckets()),
            ..always
        };
        let moments = match self.setting.meter {
            Meter::Allocated => vec![head, backward, step],
            Meter::Reserved | Meter::Process => {
                // One upon the other: neither finds room in what was freed for the other.
                vec![Estimate { logits: head.logits, ..backward }, step]
            }
        };
        let largest = moments.into_iter().max_by_key(Estimate::total).unwrap_or(always);
        Bounded::of_torch(largest, self.setting.meter)
    }

    /// Bytes of one number of an activation: half under autocast and wherever weights are.
    fn number(&self) -> u128 {
        let adapts_f32 =
            self.recipe.quantization == Quantization::Float32 && self.recipe.method.makes_adapter();
        if adapts_f32 { F32 } else { HALF }
    }

    /// Whether only each block's input is kept: `torch.utils.checkpoint` around a block, the one level transformers has.
    fn checkpoints(&self) -> bool {
        !matches!(
            self.recipe.gradient_checkpointing,
            CheckpointingLevel::None | CheckpointingLevel::Selective
        )
    }

    /// Bytes kept from the forward to the backward pass.
    fn kept(&self) -> u128 {
        let blocks = u128::from(self.shape.num_hidden_layers);
        let boundary = self.number() * u128::from(self.shape.hidden_size);
        if self.checkpoints() {
            // What the block at hand keeps is in its backward pass's workspace.
            blocks * boundary * self.tokens
        } else {
            blocks * self.saved()
        }
    }

    /// Bytes that one block's turn in the backward pass adds: what it keeps if that is made again, and the gradients of
    /// the MLP's three widest tensors.
    fn in_block(&self) -> u128 {
        let again = if self.checkpoints() { self.saved() } else { 0 };
        let wide = u128::from(self.shape.intermediate_size * self.shape.experts_used);
        again + self.tokens * self.number() * 3 * wide
    }

    /// Bytes around the loss, of whole logits: the head's own output in the compute dtype, and three of the dtype the loss
    /// is computed in: its input or log-softmax, the gradient of that, the gradient of the logits. Of a reward model one
    /// number for each row.
    fn logits(&self) -> u128 {
        let vocab = match self.recipe.objective {
            Objective::Reward(_) => return self.rows * F32,
            _ => u128::from(self.shape.vocab_size),
        };
        let loss = match (&self.recipe.objective, self.setting.runtime.loss_in_half(self.precision))
        {
            (Objective::Sft(_), false) => F32,
            // TRL takes a preference's log-probabilities row by row in the logits' own dtype.
            _ => HALF,
        };
        // The reference's logits, made while the policy's graph is alive.
        let reference = match self.recipe.objective {
            Objective::Dpo(_) | Objective::Kto(_) => HALF,
            _ => 0,
        };
        self.tokens * vocab * (self.number() + 3 * loss + reference)
    }
}
