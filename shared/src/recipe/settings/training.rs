//! How a run goes: batches, duration, learning rate, optimizer, checkpoints, evaluation.

use super::super::words::{EvalStrategy, OptimName, ScheduleArgs, ScheduleName};

/// Rows per micro-batch and micro-batches per optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Rows per micro-batch.
    pub micro_batch: usize,
    /// Micro-batches per step.
    pub accumulation: usize,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duration {
    /// So many optimizer steps.
    Steps(u64),
    /// So many passes over the data.
    Epochs(f64),
}

/// The learning rate over the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub name: ScheduleName,
    /// Its peak.
    pub learning_rate: f64,
    /// Its beginning.
    pub warmup: Warmup,
    /// What its shape takes besides.
    pub args: ScheduleArgs,
}

/// How the learning rate rises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// Over so many steps.
    Steps(u64),
    /// Over this fraction of all steps, rounded up.
    Ratio(f64),
}

/// An optimizer and its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optim {
    /// Which.
    pub name: OptimName,
    /// Of first and second moments under [`OptimName::AdamwAnyprecision`].
    pub moments: [MomentDtype; 2],
    /// Numbers of AdamW; Lion takes the betas, all take the weight decay.
    pub adam: AdamW,
    /// Momentum of plain gradient descent.
    pub sgd_momentum: f64,
    /// Learning rate of B over that of A (LoRA+, arXiv 2402.12354).
    pub loraplus_lr_ratio: Option<f64>,
    /// Learning rate of embeddings.
    pub embedding_lr: Option<f64>,
    /// Step each tensor as soon as its gradient is there.
    pub in_backward: bool,
}

impl Optim {
    /// Bytes of both moments of a number under [`OptimName::AdamwAnyprecision`].
    #[must_use]
    pub fn moment_bytes(&self) -> u64 {
        self.moments.map(MomentDtype::bytes).iter().sum()
    }

    /// Whether a card keeps the moments and steps them: AdamW's in f32 and in 8 bits. All others stay in the machine's
    /// memory.
    #[must_use]
    pub fn lives_on_cards(&self) -> bool {
        match self.name {
            OptimName::AdamwTorch | OptimName::Adamw8bit => true,
            OptimName::AdamwAnyprecision => self.moments == [MomentDtype::Float32; 2],
            _ => false,
        }
    }
}

/// What a moment is kept in where that can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MomentDtype {
    /// `float32`.
    #[default]
    Float32,
    /// `bfloat16`.
    Bfloat16,
}

impl MomentDtype {
    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 => 2,
        }
    }
}

/// AdamW's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay, on tensors with two dimensions.
    pub weight_decay: f64,
}

/// Largest L2 norm of all gradients together; `None` leaves them alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip(pub Option<f64>);

/// When checkpoints are written and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointing {
    /// Optimizer steps between two, if any are written.
    pub save_steps: Option<u64>,
    /// Kept in the output folder.
    pub save_total_limit: usize,
}

/// When held-out rows are evaluated, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// When.
    pub strategy: EvalStrategy,
    /// Optimizer steps between two, under [`EvalStrategy::Steps`].
    pub steps: u64,
    /// Whether also before the first step.
    pub on_start: bool,
    /// Rows per micro-batch.
    pub micro_batch: usize,
    /// What counts as best.
    pub best: BestModel,
    /// When to end early, if ever.
    pub early_stopping: Option<EarlyStopping>,
}

/// What counts as the best model.
#[derive(Clone, Debug, PartialEq)]
pub struct BestModel {
    /// Whether the result is the best checkpoint, not the last step.
    pub load_at_end: bool,
    /// Name of a metric, such as `eval_loss`.
    pub metric: String,
    /// Whether more is better.
    pub greater_is_better: bool,
}

/// When to end early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Evaluations without a better one.
    pub patience: u64,
    /// How much better counts.
    pub threshold: f64,
}
