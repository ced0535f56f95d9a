//! How a job is tried since it ran out of memory, in words.

use fleetune_shared::view::{RungKind, RungView};

/// One line.
pub(super) fn rung(rung: &RungView) -> String {
    let step = match rung.kind {
        RungKind::SmallerMicroBatch => "in smaller micro-batches",
        RungKind::MoreCheckpointing => "with more checkpointing",
        RungKind::BiggerCard => "with more memory",
    };
    let change = rung.change.map_or_else(String::new, |change| format!(": {change}"));
    format!(
        "{step} since it ran out of memory{change}; promised at least {}",
        rung.vram_bytes_least
    )
}
