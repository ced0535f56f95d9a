//! What one look at a card showed.

use std::collections::BTreeMap;

use fleetune_shared::{ByteSize, Telemetry};

/// What is measured on a card. A declared card shows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Memory that is not ours, where that can be told now.
    pub vram_bytes_foreign: Option<ByteSize>,
    /// What our trainers and their children hold on the card, by trainer, where the driver tells.
    pub trainers: BTreeMap<u32, ByteSize>,
    /// Programs on the card that are not ours.
    pub strangers: Vec<Stranger>,
    /// Whether the driver tells who is on the card and what each of them holds.
    pub tells_strangers: bool,
    /// Part of its time that the card computes for others, in percent, where that can be told now.
    pub load_percent: Option<u32>,
    /// What it is doing, ours and others'; absent for a declared card.
    pub telemetry: Option<Telemetry>,
    /// Where its driver throttles it, in °C.
    pub celsius_slowdown: Option<u32>,
    /// The last error its driver reported that no program caused: NVIDIA's number for it.
    pub xid: Option<u64>,
}

/// A program that somebody else runs on the card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its process.
    pub pid: u32,
    /// Its name, fit to be shown.
    pub name: Option<String>,
    /// What it holds there, where the driver tells.
    pub vram_bytes: Option<ByteSize>,
}

/// A text from the driver or the kernel, fit to be shown: one line, not too long; `None` where nothing is left.
pub(super) fn plain(text: &str) -> Option<String> {
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(120).collect();
    (!text.is_empty()).then_some(text)
}
