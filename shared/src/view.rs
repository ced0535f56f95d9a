//! What front ends show: plain values, read-only pictures of the fleet.
//!
//! The state machine in `scheduler` renders them, `proto` carries them, `cli` draws them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Accuracy, AgentName, Artifact, Attempt, AttemptRecord, BatchChange, ByteSize, Card, CardFamily,
    Estimate, FailureKind, Input, JobId, Lineage, ModelSpec, Offer, PeakSource, Ratio, StepMetrics,
    Telemetry, TrainSummary,
};

/// Where a job stands, for people and scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// Waits for a card.
    Queued,
    /// Promised a card; its trainer is not up yet.
    Assigned,
    /// Its trainer runs.
    Running,
    /// Done; its artifact is published.
    Succeeded,
    /// Given up.
    Failed,
    /// Ended by a user.
    Cancelled,
}

impl JobPhase {
    /// Whether nothing more will happen to the job.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The word shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job, whole. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// `train` or `merge`.
    pub kind: String,
    /// Its priority.
    pub priority: i32,
    /// The sweep it belongs to.
    pub sweep: Option<String>,
    /// What that sweep set for it.
    pub sweep_keys: BTreeMap<String, String>,
    /// Where it stands.
    pub phase: JobPhase,
    /// The current or last attempt, 0 before the first.
    pub attempt: Attempt,
    /// Where the current or last attempt runs.
    pub agent: Option<AgentName>,
    /// What it needs, on the device it runs on or would run on.
    pub estimate: Estimate,
    /// When it was accepted.
    pub submitted_ms: u64,
    /// When its first attempt started.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Steps in all, once a trainer has said so.
    pub steps_total: Option<u64>,
    /// The last step heard of; its numbers.
    pub latest: Option<StepMetrics>,
    /// The last checkpoint's step.
    pub checkpoint_step: Option<u64>,
    /// Totals, once it succeeded.
    pub summary: Option<TrainSummary>,
    /// The published result.
    pub artifact: Option<Artifact>,
    /// Where the result came from.
    pub lineage: Option<Lineage>,
    /// Why the last attempt ended without a result.
    pub failure: Option<FailureView>,
    /// Attempts that have ended, the last of them if there were many: what they were promised and what they took.
    #[serde(default)]
    pub attempts: Vec<AttemptRecord>,
    /// How it is tried since it ran out of memory, if it ever did.
    #[serde(default)]
    pub rung: Option<RungView>,
    /// Why it waits, in one line, while it is queued.
    pub waiting: Option<String>,
    /// When it is expected to start, where that can be told; in lists of jobs alone, for it changes with every event.
    #[serde(default)]
    pub expected_start_ms: Option<u64>,
    /// The recipe as JSON, empty for merges.
    pub recipe_json: String,
    /// What it reads: a merge of its adapter reads the same model.
    pub inputs: Vec<Input>,
    /// The base model's shape.
    pub model: ModelSpec,
}

/// Why an attempt ended without a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureView {
    /// Of what kind; absent when the attempt was simply lost.
    pub kind: Option<FailureKind>,
    /// In words.
    pub message: String,
    /// Which attempt.
    pub attempt: Attempt,
}

/// The last step of the ladder that a job took when it ran out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RungKind {
    /// Smaller micro-batches, more of them to a step.
    SmallerMicroBatch,
    /// Blocks that keep less.
    MoreCheckpointing,
    /// More memory than was tried.
    BiggerCard,
}

/// How a job is tried since it ran out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungView {
    /// By which step.
    pub kind: RungKind,
    /// What its orders change of the recipe; nothing for merges.
    pub change: Option<BatchChange>,
    /// What it is promised at least.
    pub vram_bytes_least: ByteSize,
}

/// An agent, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// Whether its session is open.
    pub connected: bool,
    /// Whether it takes new jobs.
    pub draining: bool,
    /// What it lends.
    pub offer: Offer,
    /// What its card was doing when it was heard last; absent for a declared card.
    pub telemetry: Option<Telemetry>,
    /// Memory promised to jobs.
    pub vram_bytes_reserved: ByteSize,
    /// Memory a new job could be promised.
    pub vram_bytes_open: ByteSize,
    /// Jobs it holds.
    pub jobs: Vec<JobId>,
    /// How well promises on its card fit what was taken.
    #[serde(default)]
    pub accuracy: Accuracy,
}

/// What the fleet has learned of its estimates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryView {
    /// Over every attempt that is remembered.
    pub fleet: Accuracy,
    /// Agent by agent, those that ended an attempt.
    pub agents: Vec<AgentHistory>,
    /// What estimates are multiplied by, and why.
    pub corrections: Vec<CorrectionView>,
}

/// How well promises on one agent's card fit what was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentHistory {
    /// Whose card.
    pub agent: AgentName,
    /// Over its attempts.
    pub accuracy: Accuracy,
}

/// What was learned of jobs of one kind on cards of one family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorrectionView {
    /// On which cards.
    pub family: CardFamily,
    /// What is trained: `lora`, `full`, …
    pub method: String,
    /// How the base is held: `bfloat16`, `4bit`, …
    pub dtype: String,
    /// How far queries see: `full` or `windowed`.
    pub attention: String,
    /// Longest row in tokens, a power of two.
    pub tokens_max: u64,
    /// Who measured.
    #[serde(default)]
    pub peak_source: PeakSource,
    /// Attempts it was learned from.
    pub samples: u64,
    /// The median of measured over estimated.
    pub ratio_median: Ratio,
    /// The largest of them.
    pub ratio_most: Ratio,
    /// What estimates are multiplied by.
    pub correction: Ratio,
}

/// Why a job waits or was refused: every card with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The short answer.
    pub summary: String,
    /// What the job needs.
    pub estimate: Estimate,
    /// Jobs that go first.
    pub ahead: Vec<JobId>,
    /// Each agent's answer.
    pub cards: Vec<CardVerdict>,
    /// What would make it fit, or start sooner, where something would.
    pub hint: Option<String>,
    /// When it is expected to start, where that can be told from what was measured.
    pub expected_start_ms: Option<u64>,
    /// Why that cannot be told, or what it leaves out.
    #[serde(default)]
    pub start_note: Option<String>,
    /// How it is tried since it ran out of memory, if it ever did.
    #[serde(default)]
    pub rung: Option<RungView>,
}

/// One card's answer to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardVerdict {
    /// Whose card.
    pub agent: AgentName,
    /// The card.
    pub card: Card,
    /// What the job needs there.
    pub vram_bytes_needed: ByteSize,
    /// Promised to others.
    pub vram_bytes_reserved: ByteSize,
    /// Used by strangers.
    pub vram_bytes_foreign: ByteSize,
    /// Left untouched.
    pub vram_bytes_margin: ByteSize,
    /// What a new job could be promised.
    pub vram_bytes_open: ByteSize,
    /// Jobs it has.
    pub jobs: u32,
    /// Most jobs it takes at once.
    pub jobs_max: u32,
    /// The answer.
    pub verdict: Verdict,
    /// What it lacks, whose company is in the way, or why it is closed.
    pub lacks: Option<String>,
}

/// Whether a card would take a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It would, now.
    Fits,
    /// It would once promised or foreign memory is given back.
    Busy,
    /// It would once one of its jobs ends: it takes no more at once.
    Full,
    /// It is not what the job asks for.
    Unsuitable,
    /// It never would.
    TooSmall,
    /// Its agent is not there.
    Disconnected,
    /// Its agent takes no new jobs.
    Draining,
    /// Its owner comes first.
    Closed,
}

/// The fleet at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetView {
    /// Every agent.
    pub agents: Vec<AgentView>,
    /// Every job, oldest first.
    pub jobs: Vec<JobView>,
}
