//! A card is a GPU as an agent offers it.

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// What a trainer computes on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The host's processor, held to the size of the card it stands for.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// A GPU: its name and its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// As the driver prints it, or as the user declared it.
    pub name: String,
    /// All the memory there is.
    pub vram_bytes_total: ByteSize,
    /// `(major, minor)`, when there is a driver to ask.
    pub compute_capability: Option<(u32, u32)>,
    /// What computes for this card.
    pub device: Device,
}

/// What an agent lends at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The card.
    pub card: Card,
    /// Memory held on it by processes that are not Fleetune's.
    pub vram_bytes_foreign: ByteSize,
}

impl Card {
    /// Memory left untouched for what no estimate sees (allocator slack, a desktop's next window): 4 % of
    /// the card, at most 512 MiB.
    #[must_use]
    pub fn margin(&self) -> ByteSize {
        ByteSize((self.vram_bytes_total.0 / 25).min(512 << 20))
    }

    /// What a job can have on an otherwise empty card.
    #[must_use]
    pub fn usable(&self) -> ByteSize {
        ByteSize(self.vram_bytes_total.0 - self.margin().0)
    }
}
