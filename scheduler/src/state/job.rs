//! A job as the fleet remembers it, and its lifecycle.
//!
//! ```text
//!            ┌── lost, released, made room, machine failure, ──────┐
//!            │   out of memory with a rung left (`crate::ladder`)  │
//!            ▼                                                     │
//!   Queued ──▶ Assigned ──▶ Running ──▶ Succeeded                  │
//!      │          │  └─────────┴────────────────────────────────────
//!      │          └──▶ Failed (input, nothing left on the ladder, diverged, too many tries)
//!      └──▶ Cancelled (from any phase that is not final)
//! ```

use fleetune_shared::{
    AgentName, Artifact, Attempt, AttemptRecord, ByteSize, CardFamily, Device, Estimate,
    FailureKind, JobId, JobSpec, Lineage, Ratio, TrainSummary, Work,
};
use serde::{Deserialize, Serialize};

use crate::ladder::Rung;

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
    /// How fast the live attempt goes, once its trainer has started.
    #[serde(default)]
    pub pace: Option<Pace>,
    /// How it is tried since it ran out of memory.
    #[serde(default)]
    pub rung: Rung,
    /// The last attempts that have ended.
    #[serde(default)]
    pub attempts: Vec<AttemptRecord>,
}

/// Two moments of an attempt: what lies between them was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Where it began: step and time.
    pub began: (u64, u64),
    /// Its last checkpoint: step and time.
    pub last: (u64, u64),
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
    /// When it was given.
    #[serde(default)]
    pub since_ms: u64,
    /// When the job is expected to end, by what was known then of its length and of the speed of its kind.
    #[serde(default)]
    pub ends_ms: Option<u64>,
    /// The more urgent job that its holder was asked to make room for.
    #[serde(default)]
    pub yielding_to: Option<JobId>,
    /// What its size rests on.
    #[serde(default)]
    pub basis: Basis,
}

/// What a promise rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// What kind of card.
    pub family: CardFamily,
    /// What the job was estimated at there.
    pub vram_bytes_estimated: ByteSize,
    /// What that was multiplied by.
    pub correction: Ratio,
}

impl Lease {
    /// What the run's own estimate may come to, so that what it takes stays within the promise.
    #[must_use]
    pub fn vram_bytes_budget(&self) -> ByteSize {
        self.basis.correction.undone(self.vram_bytes)
    }
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

    /// What its attempts are ordered to do: what was asked for, with what its rung changes.
    #[must_use]
    pub fn ordered(&self) -> JobSpec {
        let mut spec = self.spec.clone();
        let Some(adapted) = self.rung.adapted() else { return spec };
        spec.estimates.clone_from(&adapted.estimates);
        if let (Work::Train { recipe }, Some(change)) = (&self.spec.work, adapted.change)
            // A change that its recipe does not allow is on no rung.
            && let Ok(changed) = change.of(recipe)
        {
            spec.work = Work::Train { recipe: Box::new(changed) };
        }
        spec
    }

    /// What it needs by the estimate for the rung it stands on.
    #[must_use]
    pub fn estimate(&self, device: Device) -> Option<&Estimate> {
        let estimates = self.rung.adapted().map_or(&self.spec.estimates, |a| &a.estimates);
        estimates.get(&device)
    }

    /// What it can make use of, not corrected: what it needs, or more where it keeps as much as there is room for.
    #[must_use]
    pub fn vram_bytes_useful(&self, device: Device) -> Option<ByteSize> {
        match self.rung.adapted() {
            None => self.spec.vram_bytes_useful(device),
            Some(adapted) => adapted.vram_bytes_needed(device),
        }
    }

    /// Whether its trainer runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// When the live attempt is expected to end: by its own pace, or by what was known when it was placed.
    #[must_use]
    pub fn ends_ms(&self) -> Option<u64> {
        let own = self.pace.zip(self.steps_total).and_then(|(pace, total)| {
            let (steps, ms) = (pace.last.0 - pace.began.0, pace.last.1 - pace.began.1);
            let left = total.saturating_sub(pace.last.0);
            (steps > 0).then(|| pace.last.1.saturating_add(left.saturating_mul(ms) / steps))
        });
        own.or_else(|| self.lease().and_then(|lease| lease.ends_ms))
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.phase, Phase::Succeeded { .. } | Phase::Failed | Phase::Cancelled)
    }
}
