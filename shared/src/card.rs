//! A card is a GPU as an agent offers it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Availability, BlobHash, ByteSize};

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
    /// Most jobs it takes at once, where its owner said so.
    #[serde(default)]
    pub max_jobs_per_card: Option<u32>,
    /// Words its owner gave it, for jobs to ask for.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// Large blobs it keeps: a base model among them need not cross the network.
    #[serde(default)]
    pub blobs_cached: BTreeSet<BlobHash>,
    /// Where other agents may fetch those blobs, as `HOST:PORT`; nothing where its owner keeps them to the card.
    #[serde(default)]
    pub share: Option<String>,
    /// Whether it takes jobs now.
    #[serde(default)]
    pub availability: Availability,
}

impl Offer {
    /// A card of which everything is lent, by an owner who said nothing more.
    #[must_use]
    pub fn of(card: Card) -> Self {
        Self {
            card,
            vram_bytes_foreign: ByteSize(0),
            max_jobs_per_card: None,
            labels: BTreeSet::new(),
            blobs_cached: BTreeSet::new(),
            share: None,
            availability: Availability::Open,
        }
    }

    /// Most jobs the card takes at once. A GPU takes one unless its owner says otherwise, for jobs side by side
    /// slow each other down; a declared card as many as fit.
    #[must_use]
    pub fn jobs_max(&self) -> u32 {
        self.max_jobs_per_card.unwrap_or(match self.card.device {
            Device::Cuda => 1,
            Device::Cpu => u32::MAX,
        })
    }

    /// What jobs can have of the card while strangers use it as they do.
    #[must_use]
    pub fn usable(&self) -> ByteSize {
        ByteSize(self.card.usable().0.saturating_sub(self.vram_bytes_foreign.0))
    }
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
