//! What a trainer says while it works.
//!
//! The engine hands these to its observer; a trainer process prints them as JSON lines on stdout; the agent
//! passes them on. One vocabulary from the loss to the screen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AsRun, ByteSize, Estimate, PeakSource};

/// One optimizer step, as written to `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: u64,
    /// Negative log-likelihood per supervised token, in nats, over the whole step.
    pub loss: f64,
    /// L2 norm of all gradients before clipping.
    pub grad_norm: f64,
    /// The rate this step used.
    pub learning_rate: f64,
    /// Tokens that carried a label.
    pub supervised_tokens: u64,
    /// All tokens processed per second.
    pub tokens_per_second: f64,
    /// Fraction of the run's epochs behind this step.
    pub epoch: f64,
    /// What else there is to tell, by the names of transformers and TRL: `eval_loss` where held-out rows were
    /// evaluated after the step, `rewards/accuracies` and the like under an objective that has them.
    #[serde(flatten)]
    pub more: BTreeMap<String, f64>,
}

/// The best evaluation of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestEvaluation {
    /// After which step.
    pub step: u64,
    /// Of what, such as `eval_loss`.
    pub metric: String,
    /// How good.
    pub value: f64,
}

/// Why an attempt failed; decides whether another is worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The recipe, data, model or template is wrong: the same again would fail the same way.
    Input,
    /// The card (or its declared size) was too small.
    OutOfMemory,
    /// The loss was NaN or infinite.
    Diverged,
    /// The agent's machine failed: disk, process, driver.
    Machine,
    /// The trainer made no progress and was ended.
    Hung,
}

/// Totals of a finished run, also written to `report.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainSummary {
    /// Optimizer steps done.
    pub steps: u64,
    /// Mean loss of the first step.
    pub loss_first: f64,
    /// Mean loss of the last step.
    pub loss_last: f64,
    /// Parameters that were trained.
    pub trainable_parameters: u64,
    /// Tokens processed, all together.
    pub tokens: u64,
    /// Tokens that carried a label.
    pub supervised_tokens: u64,
    /// Rows used.
    pub rows: u64,
    /// Rows dropped because they were longer than `max_length`.
    pub rows_dropped: u64,
    /// Rows cut at `max_length`.
    pub rows_truncated: u64,
    /// Seconds of training in this process.
    pub seconds: f64,
    /// Tokens per second over those seconds.
    pub tokens_per_second: f64,
    /// Seconds from process start to the end of the first optimizer step.
    pub seconds_to_first_step: f64,
    /// Seconds of `seconds` in which steps waited for their rows.
    pub seconds_waited_for_data: f64,
    /// The estimate this run was sized by.
    pub estimate: Option<Estimate>,
    /// The most memory held at any moment.
    pub memory_bytes_peak: ByteSize,
    /// Who measured that.
    pub peak_source: PeakSource,
    /// What the run really had, and the estimate of that; absent where the peak cannot be held against an estimate.
    pub as_run: Option<AsRun>,
    /// The last loss on held-out rows, where there were any.
    pub eval_loss_last: Option<f64>,
    /// The best evaluation, where there was any; with `load_best_model_at_end` the result is the model of that step.
    pub best: Option<BestEvaluation>,
    /// Largest difference of a logit between base + adapter and the merged model (merge jobs only).
    pub merge_logit_difference: Option<f64>,
}

/// What a trainer says.
#[expect(clippy::large_enum_variant, reason = "the large one is said once a run, and never kept")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TrainerEvent {
    /// Something worth a line in the log.
    Log {
        /// The line.
        message: String,
    },
    /// Everything is loaded; training starts after this.
    Started {
        /// Steps already done, from a checkpoint.
        step: u64,
        /// Steps in all.
        steps_total: u64,
    },
    /// An optimizer step was done.
    Step(StepMetrics),
    /// A checkpoint stands complete in `folder`, a name inside the output folder.
    Checkpoint {
        /// After which step.
        step: u64,
        /// The folder's name.
        folder: String,
    },
    /// The most memory held so far, in bytes, said before an end without a result.
    Peak {
        /// How much.
        memory_bytes: ByteSize,
    },
    /// Done; the result stands in the output folder.
    Finished {
        /// Totals.
        summary: TrainSummary,
    },
    /// Ended without a result.
    Failed {
        /// Of what kind.
        kind: FailureKind,
        /// What, where, found, expected, what to do.
        message: String,
    },
}
