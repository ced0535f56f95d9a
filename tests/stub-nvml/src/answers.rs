//! What the stub says, as the JSON file holds it.

use serde::{Deserialize, Serialize};

/// The whole machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Answers {
    /// Returned by every call instead of an answer: 9 is a driver that is not loaded.
    pub error: u32,
    /// The cards.
    pub cards: Vec<CardAnswer>,
}

/// One card.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CardAnswer {
    /// Such as `NVIDIA GeForce RTX 3080`.
    pub name: String,
    /// Such as `GPU-1`.
    pub uuid: String,
    /// All its memory, in bytes.
    pub total: u64,
    /// Memory the driver keeps for itself, in bytes.
    pub reserved: u64,
    /// Memory in use, in bytes.
    pub used: u64,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Who computes on it.
    pub processes: Vec<ProcessAnswer>,
    /// Returned by every call for this card instead of an answer: 15 is a card that fell off the bus.
    pub error: u32,
}

/// One process on a card.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessAnswer {
    /// Its number.
    pub pid: u32,
    /// What it holds, in bytes, where the driver can tell.
    pub used: Option<u64>,
}
