//! What attempts were promised, what was expected of them and what they took.

use serde::{Deserialize, Serialize};

use crate::{AgentName, Attempt, ByteSize, CardFamily, Estimate, Ratio};

/// The largest micro-batch a run really had, and what the estimate says of that: what its measured peak can be held
/// against, like with like. A run on rows shorter than `max_length` takes less than the estimate its card was chosen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsRun {
    /// Rows of tokens.
    pub rows: u64,
    /// Tokens in all of them.
    pub tokens: u64,
    /// The estimate for it, under the memory plan the run had.
    pub estimate: Estimate,
}

impl AsRun {
    /// Tokens a row, rounded up.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.tokens.div_ceil(self.rows.max(1))
    }
}

/// Who measured how much memory an attempt held. The two do not count alike: what a driver says of a process has its
/// context and its caches in it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum PeakSource {
    /// The trainer, of what it allocated itself.
    #[default]
    Trainer,
    /// The card's driver, of the trainer's process.
    Driver,
}

impl PeakSource {
    /// In words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Trainer => "trainer",
            Self::Driver => "driver",
        }
    }
}

/// The most memory an attempt held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredPeak", into = "StoredPeak")]
pub struct Peak {
    /// How much.
    pub bytes: ByteSize,
    /// Who says so.
    pub source: PeakSource,
}

/// As it is stored: a trainer's as the bare number it was before drivers were asked.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredPeak {
    Bytes(ByteSize),
    Told { bytes: ByteSize, source: PeakSource },
}

impl From<StoredPeak> for Peak {
    fn from(stored: StoredPeak) -> Self {
        match stored {
            StoredPeak::Bytes(bytes) => Self { bytes, source: PeakSource::Trainer },
            StoredPeak::Told { bytes, source } => Self { bytes, source },
        }
    }
}

impl From<Peak> for StoredPeak {
    fn from(Peak { bytes, source }: Peak) -> Self {
        match source {
            PeakSource::Trainer => Self::Bytes(bytes),
            PeakSource::Driver => Self::Told { bytes, source },
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// With a result.
    Finished,
    /// It was refused memory beyond what it was promised.
    OutOfMemory,
    /// Some other failure.
    Failed,
    /// Given back: asked to make room, cancelled, or lost with its agent.
    Released,
}

/// One attempt that has ended. Bytes are those of its card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which.
    pub attempt: Attempt,
    /// Whose card.
    pub agent: AgentName,
    /// What card.
    pub family: CardFamily,
    /// When it was given the card, milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// When it left it.
    pub ended_ms: u64,
    /// How.
    pub end: AttemptEnd,
    /// What the recipe was estimated at.
    pub vram_bytes_estimated: ByteSize,
    /// What that was multiplied by, learned from earlier attempts.
    pub correction: Ratio,
    /// What it was promised.
    pub vram_bytes_promised: ByteSize,
    /// The estimate of what it really ran, not corrected; absent where the run did not say.
    pub vram_bytes_as_run: Option<ByteSize>,
    /// The most it held; absent where nobody measured.
    pub vram_bytes_peak: Option<ByteSize>,
    /// Who measured that.
    #[serde(default)]
    pub peak_source: PeakSource,
}

impl AttemptRecord {
    /// How far off the corrected estimate of what it ran was, as a part of what it took. Only of attempts that finished
    /// and say what they ran: anything else would compare two different things.
    #[must_use]
    pub fn error(&self) -> Option<Ratio> {
        let peak = self.vram_bytes_peak.filter(|_| self.end == AttemptEnd::Finished)?;
        let expected = self.correction.times(self.vram_bytes_as_run?);
        Ratio::of(ByteSize(expected.0.abs_diff(peak.0)), peak)
    }

    /// Memory × time that was promised and not used, in MiB·s.
    #[must_use]
    pub fn wasted_mib_s(&self) -> u64 {
        let Some(peak) = self.vram_bytes_peak else { return 0 };
        let bytes = self.vram_bytes_promised.0.saturating_sub(peak.0);
        let ms = self.ended_ms.saturating_sub(self.began_ms);
        (u128::from(bytes >> 20) * u128::from(ms) / 1000) as u64
    }
}

/// How well promises fit what was taken, over some attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Attempts that ended with a result or for want of memory: those that show whether a promise was enough.
    pub attempts: u64,
    /// Of those, attempts that ran out of memory.
    pub out_of_memory: u64,
    /// Attempts whose error is known.
    pub compared: u64,
    /// The median of their [`AttemptRecord::error`]s.
    pub error_median: Option<Ratio>,
    /// Nine of ten are at most so far off.
    pub error_p90: Option<Ratio>,
    /// Memory × time that was promised and not used, of every attempt that was measured, in MiB·s.
    pub wasted_mib_s: u64,
}

impl Accuracy {
    /// Over these.
    #[must_use]
    pub fn of<'a>(records: impl IntoIterator<Item = &'a AttemptRecord>) -> Self {
        let (mut accuracy, mut errors) = (Self::default(), Vec::new());
        for record in records {
            match record.end {
                AttemptEnd::Finished => accuracy.attempts += 1,
                AttemptEnd::OutOfMemory => {
                    accuracy.attempts += 1;
                    accuracy.out_of_memory += 1;
                }
                AttemptEnd::Failed | AttemptEnd::Released => {}
            }
            accuracy.wasted_mib_s = accuracy.wasted_mib_s.saturating_add(record.wasted_mib_s());
            errors.extend(record.error());
        }
        errors.sort_unstable();
        accuracy.compared = errors.len() as u64;
        accuracy.error_median = quantile(&errors, 50);
        accuracy.error_p90 = quantile(&errors, 90);
        accuracy
    }

    /// The part of attempts that ran out of memory; none over no attempts.
    #[must_use]
    pub fn out_of_memory_rate(&self) -> Option<f64> {
        (self.attempts > 0).then(|| self.out_of_memory as f64 / self.attempts as f64)
    }

    /// Memory × time that was promised and not used, in GiB·h.
    #[must_use]
    pub fn wasted_gib_h(&self) -> f64 {
        self.wasted_mib_s as f64 / (1024.0 * 3600.0)
    }
}

/// The least of `sorted` that so many per cent of it do not exceed (nearest rank).
#[must_use]
pub fn quantile(sorted: &[Ratio], percent: usize) -> Option<Ratio> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn record(end: AttemptEnd, as_run: Option<u64>, peak: Option<u64>) -> AttemptRecord {
        AttemptRecord {
            attempt: Attempt(1),
            agent: "one".parse().unwrap(),
            family: CardFamily::default(),
            began_ms: 0,
            ended_ms: 1_800_000,
            end,
            vram_bytes_estimated: ByteSize(8 * GIB),
            correction: Ratio::ONE,
            vram_bytes_promised: ByteSize(8 * GIB),
            vram_bytes_as_run: as_run.map(ByteSize),
            vram_bytes_peak: peak.map(ByteSize),
            peak_source: PeakSource::default(),
        }
    }

    #[test]
    fn errors_compare_like_with_like() {
        let finished = |as_run, peak| record(AttemptEnd::Finished, as_run, peak);
        let close = finished(Some(5 * GIB), Some(4 * GIB));
        assert_eq!(close.error(), Some(Ratio(2500)));
        assert_eq!(finished(None, Some(4 * GIB)).error(), None, "it may have run on short rows");
        assert_eq!(record(AttemptEnd::OutOfMemory, Some(GIB), Some(GIB)).error(), None);
        // Half an hour with four GiB promised and not used.
        assert_eq!(close.wasted_mib_s(), 4096 * 1800);
    }

    #[test]
    fn accuracy_counts_only_what_was_decided() {
        let records = [
            record(AttemptEnd::Finished, Some(4 * GIB), Some(4 * GIB)),
            record(AttemptEnd::Finished, Some(3 * GIB), Some(4 * GIB)),
            record(AttemptEnd::Finished, None, None),
            record(AttemptEnd::OutOfMemory, None, Some(8 * GIB)),
            record(AttemptEnd::Released, None, None),
            record(AttemptEnd::Failed, None, None),
        ];
        let accuracy = Accuracy::of(&records);
        assert_eq!((accuracy.attempts, accuracy.out_of_memory, accuracy.compared), (4, 1, 2));
        assert_eq!(accuracy.error_median, Some(Ratio(0)));
        assert_eq!(accuracy.error_p90, Some(Ratio(2500)));
        assert_eq!(accuracy.out_of_memory_rate(), Some(0.25));
        assert!((accuracy.wasted_gib_h() - 4.0).abs() < 1e-9, "two of them, half an hour each");
        assert_eq!(Accuracy::of(&[]).out_of_memory_rate(), None);
    }

    #[test]
    fn a_trainers_peak_reads_as_it_was_written_before_drivers_were_asked() {
        let peak = |source| Peak { bytes: ByteSize(7), source };
        let [own, told] = [PeakSource::Trainer, PeakSource::Driver].map(peak);
        assert_eq!(serde_json::to_string(&own).unwrap(), "7");
        for peak in [own, told] {
            let text = serde_json::to_string(&peak).unwrap();
            assert_eq!(serde_json::from_str::<Peak>(&text).unwrap(), peak);
        }
    }

    #[test]
    fn a_quantile_is_one_of_its_values() {
        let values: Vec<Ratio> = (1..=20).map(Ratio).collect();
        assert_eq!(quantile(&values, 50), Some(Ratio(10)));
        assert_eq!(quantile(&values, 95), Some(Ratio(19)));
        assert_eq!(quantile(&values[..19], 95), Some(Ratio(19)));
        assert_eq!(quantile(&[], 50), None);
    }
}
