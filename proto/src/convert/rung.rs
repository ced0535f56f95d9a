//! How a job is tried since it ran out of memory.

use fleetune_shared::recipe::CheckpointingLevel;
use fleetune_shared::view::{RungKind, RungView};
use fleetune_shared::{BatchChange, ByteSize};

use super::{ConvertError, enumeration, optional};
use crate::v1;

super::convert_enum!(RungKind, RungKind, SmallerMicroBatch, MoreCheckpointing, BiggerCard);
super::convert_enum!(CheckpointingLevel, CheckpointingLevel, None, Selective, Block, Auto);

impl From<RungView> for v1::Rung {
    fn from(rung: RungView) -> Self {
        Self {
            kind: v1::RungKind::from(rung.kind).into(),
            change: rung.change.map(Into::into),
            vram_bytes_least: rung.vram_bytes_least.0,
        }
    }
}

impl TryFrom<v1::Rung> for RungView {
    type Error = ConvertError;
    fn try_from(rung: v1::Rung) -> Result<Self, ConvertError> {
        Ok(Self {
            kind: enumeration::<v1::RungKind, _>("kind", rung.kind)?,
            change: optional("change", rung.change)?,
            vram_bytes_least: ByteSize(rung.vram_bytes_least),
        })
    }
}

impl From<BatchChange> for v1::BatchChange {
    fn from(change: BatchChange) -> Self {
        Self {
            micro_batch: change.micro_batch,
            accumulation: change.accumulation,
            checkpointing: v1::CheckpointingLevel::from(change.checkpointing).into(),
        }
    }
}

impl TryFrom<v1::BatchChange> for BatchChange {
    type Error = ConvertError;
    fn try_from(change: v1::BatchChange) -> Result<Self, ConvertError> {
        let v1::BatchChange { micro_batch, accumulation, checkpointing } = change;
        let checkpointing =
            enumeration::<v1::CheckpointingLevel, _>("checkpointing", checkpointing)?;
        Ok(Self { micro_batch, accumulation, checkpointing })
    }
}
