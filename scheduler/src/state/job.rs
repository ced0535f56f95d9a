//! A job as the fleet remembers it, and its lifecycle.
//!
//! ```text
//!            ┌────────── lost, released, machine failure ──────────┐
//!            ▼                                                     │
//!   Queued ──▶ Assigned ──▶ Running ──▶ Succeeded                  │
//!      │          │  └─────────┴────────────────────────────────────
//!      │          └──▶ Failed (input, out of memory, diverged, too many tries)
//!      └──▶ Cancelled (from any phase that is not final)
//! ```

use fleetune_shared::{
    AgentName, Artifact, Attempt, ByteSize, FailureKind, JobId, JobSpec, Lineage, TrainSummary,
};
use serde::{Deserialize, Serialize};

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What was asked for.
    pub spec: JobSpec,
    /// When it was accepted.
    pub submitted_ms: u64,
    /// When its first trainer started.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// The attempt that is live, or was last; 0 before the first. Reports of any other are refused.
    pub attempt: Attempt,
    /// Where it stands.
    pub phase: Phase,
    /// The last complete checkpoint.
    pub checkpoint: Option<Artifact>,
    /// Steps in all, once a trainer said so.
    pub steps_total: Option<u64>,
    /// Attempts in a row that ended by the machine's fault without a new checkpoint.
    pub machine_failures: u32,
    /// How the last attempt without a result ended.
    pub failure: Option<Failure>,
}

/// Where a job stands; each phase carries only what it knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Waits for a card.
    Queued,
    /// Promised a card.
    Assigned(Lease),
    /// Its trainer runs.
    Running(Lease),
    /// Its result is published.
    Succeeded {
        /// Who trained it.
        agent: AgentName,
        /// The result.
        artifact: Artifact,
        /// Totals.
        summary: Box<TrainSummary>,
        /// Where the result came from.
        lineage: Lineage,
    },
    /// Given up; [`Job::failure`] says why.
    Failed,
    /// Ended by a user.
    Cancelled,
}

/// A promise of memory on one card for one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose card.
    pub agent: AgentName,
    /// How much of it.
    pub vram_bytes: ByteSize,
}

/// How an attempt ended without a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Absent when the attempt was lost or released.
    pub kind: Option<FailureKind>,
    /// In words.
    pub message: String,
    /// Which attempt.
    pub attempt: Attempt,
    /// Where it ran.
    pub agent: AgentName,
}

impl Job {
    /// The live attempt's promise, if there is a live attempt.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Assigned(lease) | Phase::Running(lease) => Some(lease),
            _ => None,
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.phase, Phase::Succeeded { .. } | Phase::Failed | Phase::Cancelled)
    }
}
