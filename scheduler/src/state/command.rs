//! What the log holds. A command carries everything it needs, time included; one that cannot be read stops the
//! node, so variants are only ever added.

use fleetune_shared::{
    AgentName, Artifact, Attempt, ByteSize, FailureKind, JobId, JobSpec, Offer, Peak, RequestId,
    TrainSummary,
};
use serde::{Deserialize, Serialize};

/// A change of the fleet's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// A user hands over jobs.
    Submit {
        /// A retry has the same.
        request: RequestId,
        /// The jobs.
        specs: Vec<JobSpec>,
        /// Now.
        now_ms: u64,
    },
    /// A user ends a job.
    Cancel {
        /// The job.
        job: JobId,
        /// Now.
        now_ms: u64,
    },
    /// An agent says hello.
    Join {
        /// Its name.
        agent: AgentName,
        /// The hash of its key.
        key_hash: [u8; 32],
        /// What it lends.
        offer: Offer,
        /// Attempts it has trainers or unreported ends for.
        held: Vec<Held>,
        /// Now.
        now_ms: u64,
    },
    /// What an agent lends has changed.
    Offer {
        /// Its name.
        agent: AgentName,
        /// What it lends now.
        offer: Offer,
    },
    /// An agent was silent for longer than a lease: its jobs are re-queued.
    Leave {
        /// Its name.
        agent: AgentName,
        /// Now.
        now_ms: u64,
    },
    /// A user lets an agent run dry, or takes that back.
    Drain {
        /// Its name.
        agent: AgentName,
        /// Whether it takes no new jobs.
        draining: bool,
    },
    /// A user has an agent's jobs leave and gives it none, or takes that back.
    Pause {
        /// Its name.
        agent: AgentName,
        /// Whether it is paused.
        paused: bool,
    },
    /// A waiting job is promised a card.
    Assign {
        /// The job.
        job: JobId,
        /// Whose card.
        agent: AgentName,
        /// How much of it.
        vram_bytes: ByteSize,
        /// Now.
        #[serde(default)]
        now_ms: u64,
    },
    /// A running job is to write a checkpoint and make room for a more urgent one.
    Preempt {
        /// Which is to go back to the queue.
        job: JobId,
        /// Which waits.
        waiting: JobId,
        /// Now.
        now_ms: u64,
    },
    /// An agent says something about an attempt.
    Report {
        /// Who says so.
        agent: AgentName,
        /// The job.
        job: JobId,
        /// The fencing epoch.
        attempt: Attempt,
        /// What.
        report: Report,
        /// Now.
        now_ms: u64,
    },
}

impl Command {
    /// The time it carries.
    #[must_use]
    pub fn now_ms(&self) -> Option<u64> {
        match self {
            Self::Submit { now_ms, .. }
            | Self::Cancel { now_ms, .. }
            | Self::Join { now_ms, .. }
            | Self::Leave { now_ms, .. }
            | Self::Assign { now_ms, .. }
            | Self::Preempt { now_ms, .. }
            | Self::Report { now_ms, .. } => Some(*now_ms),
            Self::Offer { .. } | Self::Drain { .. } | Self::Pause { .. } => None,
        }
    }
}

/// An attempt that an agent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The job.
    pub job: JobId,
    /// The fencing epoch.
    pub attempt: Attempt,
}

/// What an agent says about an attempt. Blobs it names were verified before the command was proposed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// Its trainer is up.
    Started {
        /// Steps in all.
        steps_total: u64,
    },
    /// A checkpoint is stored.
    Checkpoint {
        /// Its files.
        artifact: Artifact,
    },
    /// Done.
    Finished {
        /// The result's files.
        artifact: Artifact,
        /// Totals.
        summary: Box<TrainSummary>,
    },
    /// Ended without a result.
    Failed {
        /// Of what kind.
        kind: FailureKind,
        /// In words.
        message: String,
        /// The most memory it held, where that is known.
        #[serde(default)]
        vram_bytes_peak: Option<Peak>,
    },
    /// Ended for want of memory: what comes next is decided by `crate::ladder`. Logs from before there was a ladder say
    /// [`Self::Failed`], and there the job ends.
    OutOfMemory {
        /// In words.
        message: String,
        /// The most memory it held, where that is known.
        vram_bytes_peak: Option<Peak>,
    },
    /// Given back on request, or lost with its process.
    Released {
        /// In words.
        message: String,
        /// The most memory it held, where that is known.
        #[serde(default)]
        vram_bytes_peak: Option<Peak>,
    },
}
