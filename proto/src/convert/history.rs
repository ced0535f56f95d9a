//! What attempts were promised and took.

use fleetune_shared::view::{AgentHistory, CorrectionView, HistoryView};
use fleetune_shared::{
    Accuracy, Attempt, AttemptEnd, AttemptRecord, ByteSize, Card, CardFamily, Device, Peak,
    PeakSource, Ratio,
};

use super::overview::agent_name;
use super::{ConvertError, enumeration, list, required};
use crate::v1;

super::convert_enum!(AttemptEnd, AttemptEnd, Finished, OutOfMemory, Failed, Released);
super::convert_enum!(PeakSource, PeakSource, Trainer, Driver);

/// Whoever does not say is of before drivers were asked.
pub(super) fn peak_source(number: i32) -> Result<PeakSource, ConvertError> {
    match number {
        0 => Ok(PeakSource::Trainer),
        _ => enumeration::<v1::PeakSource, _>("peak_source", number),
    }
}

/// A peak as reports have it.
///
/// # Errors
/// Nobody knows that source.
pub fn peak(bytes: Option<u64>, source: i32) -> Result<Option<Peak>, ConvertError> {
    let source = peak_source(source)?;
    Ok(bytes.map(|bytes| Peak { bytes: ByteSize(bytes), source }))
}

impl From<CardFamily> for v1::CardFamily {
    fn from(family: CardFamily) -> Self {
        Self { device: v1::Device::from(family.device).into(), name: family.name().to_owned() }
    }
}

impl TryFrom<v1::CardFamily> for CardFamily {
    type Error = ConvertError;
    fn try_from(family: v1::CardFamily) -> Result<Self, ConvertError> {
        let device: Device = enumeration::<v1::Device, _>("device", family.device)?;
        let (vram_bytes_total, compute_capability) = (ByteSize(0), None);
        Ok(Self::of(&Card { name: family.name, vram_bytes_total, compute_capability, device }))
    }
}

impl From<AttemptRecord> for v1::AttemptRecord {
    fn from(record: AttemptRecord) -> Self {
        Self {
            attempt: record.attempt.0,
            agent: record.agent.into(),
            family: Some(record.family.into()),
            began_ms: record.began_ms,
            ended_ms: record.ended_ms,
            end: v1::AttemptEnd::from(record.end).into(),
            vram_bytes_estimated: record.vram_bytes_estimated.0,
            correction: record.correction.0,
            vram_bytes_promised: record.vram_bytes_promised.0,
            vram_bytes_as_run: record.vram_bytes_as_run.map(|bytes| bytes.0),
            vram_bytes_peak: record.vram_bytes_peak.map(|bytes| bytes.0),
            peak_source: v1::PeakSource::from(record.peak_source).into(),
        }
    }
}

impl TryFrom<v1::AttemptRecord> for AttemptRecord {
    type Error = ConvertError;
    fn try_from(record: v1::AttemptRecord) -> Result<Self, ConvertError> {
        Ok(Self {
            attempt: Attempt(record.attempt),
            agent: agent_name("agent", record.agent)?,
            family: required("family", record.family)?,
            began_ms: record.began_ms,
            ended_ms: record.ended_ms,
            end: enumeration::<v1::AttemptEnd, _>("end", record.end)?,
            vram_bytes_estimated: ByteSize(record.vram_bytes_estimated),
            correction: Ratio(record.correction),
            vram_bytes_promised: ByteSize(record.vram_bytes_promised),
            vram_bytes_as_run: record.vram_bytes_as_run.map(ByteSize),
            vram_bytes_peak: record.vram_bytes_peak.map(ByteSize),
            peak_source: peak_source(record.peak_source)?,
        })
    }
}

impl From<Accuracy> for v1::Accuracy {
    fn from(accuracy: Accuracy) -> Self {
        Self {
            attempts: accuracy.attempts,
            out_of_memory: accuracy.out_of_memory,
            compared: accuracy.compared,
            error_median: accuracy.error_median.map(|ratio| ratio.0),
            error_p90: accuracy.error_p90.map(|ratio| ratio.0),
            wasted_mib_s: accuracy.wasted_mib_s,
        }
    }
}

impl From<v1::Accuracy> for Accuracy {
    fn from(accuracy: v1::Accuracy) -> Self {
        Self {
            attempts: accuracy.attempts,
            out_of_memory: accuracy.out_of_memory,
            compared: accuracy.compared,
            error_median: accuracy.error_median.map(Ratio),
            error_p90: accuracy.error_p90.map(Ratio),
            wasted_mib_s: accuracy.wasted_mib_s,
        }
    }
}

impl From<AgentHistory> for v1::AgentHistory {
    fn from(history: AgentHistory) -> Self {
        Self { agent: history.agent.into(), accuracy: Some(history.accuracy.into()) }
    }
}

impl TryFrom<v1::AgentHistory> for AgentHistory {
    type Error = ConvertError;
    fn try_from(history: v1::AgentHistory) -> Result<Self, ConvertError> {
        Ok(Self {
            agent: agent_name("agent", history.agent)?,
            accuracy: history.accuracy.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<CorrectionView> for v1::Correction {
    fn from(view: CorrectionView) -> Self {
        Self {
            family: Some(view.family.into()),
            method: view.method,
            dtype: view.dtype,
            attention: view.attention,
            tokens_max: view.tokens_max,
            peak_source: v1::PeakSource::from(view.peak_source).into(),
            samples: view.samples,
            ratio_median: view.ratio_median.0,
            ratio_most: view.ratio_most.0,
            correction: view.correction.0,
        }
    }
}

impl TryFrom<v1::Correction> for CorrectionView {
    type Error = ConvertError;
    fn try_from(view: v1::Correction) -> Result<Self, ConvertError> {
        Ok(Self {
            family: required("family", view.family)?,
            method: view.method,
            dtype: view.dtype,
            attention: view.attention,
            tokens_max: view.tokens_max,
            peak_source: peak_source(view.peak_source)?,
            samples: view.samples,
            ratio_median: Ratio(view.ratio_median),
            ratio_most: Ratio(view.ratio_most),
            correction: Ratio(view.correction),
        })
    }
}

impl From<HistoryView> for v1::HistoryReply {
    fn from(view: HistoryView) -> Self {
        Self {
            fleet: Some(view.fleet.into()),
            agents: view.agents.into_iter().map(Into::into).collect(),
            corrections: view.corrections.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::HistoryReply> for HistoryView {
    type Error = ConvertError;
    fn try_from(reply: v1::HistoryReply) -> Result<Self, ConvertError> {
        Ok(Self {
            fleet: reply.fleet.map(Into::into).unwrap_or_default(),
            agents: list("agents", reply.agents)?,
            corrections: list("corrections", reply.corrections)?,
        })
    }
}
