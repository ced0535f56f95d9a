//! What an attempt leaves behind when it ends: a record for people, a ratio for later estimates.

use fleetune_shared::recipe::CheckpointingLevel;
use fleetune_shared::{
    AsRun, AttemptEnd, AttemptRecord, ByteSize, FailureKind, Peak, Ratio, TrainSummary, Work,
};

use super::{Basis, Job, Lease, Report};
use crate::ladder::Rung;
use crate::learning::{Key, Sample, Traits, UpTo};

/// Records kept with a job, the last ones.
const RECORDS_MAX: usize = 16;

/// What is known of an attempt's memory once it has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    peak: Option<Peak>,
    as_run: Option<AsRun>,
    /// What its own trainer sized it at.
    estimate: Option<ByteSize>,
}

impl Measured {
    /// What a report says of it; nothing where it does not end an attempt.
    pub(super) fn of(report: &Report) -> Self {
        let known = |peak: &Peak| peak.bytes.0 > 0;
        match report {
            Report::Finished { summary, .. } => {
                let TrainSummary { memory_bytes_peak, peak_source, as_run, estimate, .. } =
                    &**summary;
                let peak = Peak { bytes: *memory_bytes_peak, source: *peak_source };
                Self {
                    peak: Some(peak).filter(known),
                    as_run: *as_run,
                    estimate: estimate.map(|estimate| estimate.total()),
                }
            }
            Report::Failed { vram_bytes_peak, .. }
            | Report::OutOfMemory { vram_bytes_peak, .. }
            | Report::Released { vram_bytes_peak, .. } => {
                Self { peak: vram_bytes_peak.filter(known), ..Self::default() }
            }
            Report::Started { .. } | Report::Checkpoint { .. } => Self::default(),
        }
    }
}

/// How a report says that an attempt ended; `None` where it goes on.
pub(super) fn end_of(report: &Report) -> Option<AttemptEnd> {
    match report {
        Report::Started { .. } | Report::Checkpoint { .. } => None,
        Report::Finished { .. } => Some(AttemptEnd::Finished),
        Report::OutOfMemory { .. } | Report::Failed { kind: FailureKind::OutOfMemory, .. } => {
            Some(AttemptEnd::OutOfMemory)
        }
        Report::Failed { .. } => Some(AttemptEnd::Failed),
        Report::Released { .. } => Some(AttemptEnd::Released),
    }
}

impl Job {
    /// The live attempt is over: what became of it is written down.
    pub(super) fn record(&mut self, end: AttemptEnd, measured: Measured, now_ms: u64) {
        let Some(lease) = self.lease() else { return };
        let record = AttemptRecord {
            attempt: self.attempt,
            agent: lease.agent.clone(),
            family: lease.basis.family,
            began_ms: lease.since_ms,
            ended_ms: now_ms.max(lease.since_ms),
            end,
            vram_bytes_estimated: lease.basis.vram_bytes_estimated,
            correction: lease.basis.correction,
            vram_bytes_promised: lease.vram_bytes,
            vram_bytes_as_run: measured.as_run.map(|ran| ran.estimate.total()),
            vram_bytes_peak: measured.peak.map(|peak| peak.bytes),
            peak_source: measured.peak.map(|peak| peak.source).unwrap_or_default(),
        };
        if self.attempts.len() == RECORDS_MAX {
            self.attempts.remove(0);
        }
        self.attempts.push(record);
    }

    /// What the live attempt's end says of estimates, if it says anything.
    pub(super) fn sample(&self, end: AttemptEnd, measured: Measured) -> Option<(Key, Sample)> {
        // A promise from before this was written down says nothing of its card.
        let lease = self.lease().filter(|lease| lease.basis != Basis::default())?;
        let Peak { bytes: peak, source } = measured.peak?;
        let family = lease.basis.family;
        let traits = Traits::of(&self.spec);
        let whole = match (end, &self.spec.work, measured.as_run) {
            (AttemptEnd::Finished, Work::Merge(_), _) => {
                Some((traits, lease.basis.vram_bytes_estimated))
            }
            // What it is compared with is a run of rows as long as its own.
            (AttemptEnd::Finished, Work::Train { .. }, Some(ran)) => {
                let length = UpTo::of(ran.length());
                Some((Traits { length, ..traits }, ran.estimate.total()))
            }
            _ => None,
        };
        let (traits, sample) = match whole {
            Some((traits, estimate)) => (traits, Sample::Whole(Ratio::of(peak, estimate)?)),
            None => {
                let estimate = measured.estimate.unwrap_or_else(|| self.sized_at(lease));
                (traits, Sample::AtLeast(Ratio::of(peak, estimate)?))
            }
        };
        Some((Key { family, traits, source }, sample))
    }

    /// What the live attempt's trainer sizes itself at, or at most where it keeps what it has room for.
    pub(super) fn sized_at(&self, lease: &Lease) -> ByteSize {
        let estimated = lease.basis.vram_bytes_estimated;
        match &self.spec.work {
            Work::Train { recipe }
                if recipe.gradient_checkpointing == CheckpointingLevel::Auto
                    && self.rung == Rung::AsAsked
                    && estimated.0 > 0 =>
            {
                estimated.max(lease.vram_bytes_budget())
            }
            Work::Train { .. } | Work::Merge(_) => estimated,
        }
    }
}
