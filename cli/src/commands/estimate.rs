//! `fleetune estimate`.

use std::path::PathBuf;

use clap::Args;
use fleetune_shared::{ByteSize, Card, Device};

use super::agent::DeviceArg;
use super::history;
use crate::Failure;
use crate::context::{Context, block_on};
use crate::output::Sizing;
use crate::recipe::{Planned, RecipeOnDisk};

/// Says how much memory a recipe needs, piece by piece, and which cards would do. Asks no coordinator, but for its history.
#[derive(Debug, Args)]
pub(crate) struct Estimate {
    /// The recipe; its paths are relative to it
    #[arg(required_unless_present = "history")]
    recipe: Option<PathBuf>,
    /// Hold it against this card, such as "RTX 3080"
    #[arg(long, value_name = "NAME")]
    card: Option<String>,
    /// Hold it against a card of this size, such as 10GiB
    #[arg(long, value_name = "SIZE")]
    vram: Option<ByteSize>,
    /// What computes
    #[arg(long, default_value = "cuda")]
    device: DeviceArg,
    /// Ask the coordinator how good the fleet's estimates were, and what it learned from that
    #[arg(long, conflicts_with_all = ["recipe", "card", "vram", "device"])]
    history: bool,
}

impl Estimate {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(recipe) = self.recipe.filter(|_| !self.history) else {
            return block_on(history::show(context));
        };
        let disk = RecipeOnDisk::read(&recipe)?;
        let planned = Planned::new(&disk, disk.recipe()?)?;
        let device = match self.device {
            DeviceArg::Cpu => Device::Cpu,
            DeviceArg::Cuda | DeviceArg::Auto => Device::Cuda,
        };
        let cards = match (self.card, self.vram) {
            (None, None) => known_cards(),
            (name, Some(vram)) => vec![card(name.as_deref().unwrap_or("a card"), vram)],
            (Some(name), None) => vec![known_card(&name)?],
        };
        context.output.show(&Sizing {
            name: planned.recipe.name.clone(),
            estimate: planned.estimate(device),
            useful: planned.useful(device),
            cards,
        })
    }
}

/// Consumer cards and their memory in GiB, smallest first.
const KNOWN: [(&str, u64); 20] = [
    ("RTX 3050", 8),
    ("RTX 2070", 8),
    ("RTX 3060 Ti", 8),
    ("RTX 3070", 8),
    ("RTX 4060", 8),
    ("RTX 3080", 10),
    ("GTX 1080 Ti", 11),
    ("RTX 2080 Ti", 11),
    ("RTX 3060", 12),
    ("RTX 3080 Ti", 12),
    ("RTX 4070", 12),
    ("RTX 5070", 12),
    ("RTX 4060 Ti 16GB", 16),
    ("RTX 4080", 16),
    ("RTX 5070 Ti", 16),
    ("RTX 5080", 16),
    ("RTX 3090", 24),
    ("RTX 4090", 24),
    ("RTX 5090", 32),
    ("RTX A6000", 48),
];

/// One card of each size.
const SHOWN: [&str; 7] =
    ["RTX 4060", "RTX 3080", "RTX 3060", "RTX 4080", "RTX 4090", "RTX 5090", "RTX A6000"];

fn card(name: &str, vram: ByteSize) -> Card {
    Card {
        name: name.to_owned(),
        vram_bytes_total: vram,
        compute_capability: None,
        device: Device::Cuda,
    }
}

/// Cards that people have, one of each size.
pub(super) fn known_cards() -> Vec<Card> {
    let shown = KNOWN.iter().filter(|(name, _)| SHOWN.contains(name));
    shown.map(|(name, gib)| card(name, ByteSize(gib << 30))).collect()
}

/// A known card by its name, however it is written.
pub(super) fn known_card(name: &str) -> Result<Card, Failure> {
    let key = |name: &str| {
        let text = name.to_lowercase().replace("nvidia", "").replace("geforce", "");
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>()
    };
    let wanted = key(name);
    let found = KNOWN.iter().find(|(known, _)| {
        let known = key(known);
        known == wanted || known.trim_start_matches(char::is_alphabetic) == wanted
    });
    found.map(|(known, gib)| card(known, ByteSize(gib << 30))).ok_or_else(|| {
        let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        Failure::new("not_found", format!("no card is known as `{name}`"))
            .hint(format!("give its size with --vram 10GiB; known are {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_found_however_it_is_written() {
        for name in ["RTX 3080", "rtx3080", "NVIDIA GeForce RTX 3080", "3080"] {
            assert_eq!(known_card(name).unwrap().vram_bytes_total, ByteSize(10 << 30), "{name}");
        }
        assert_eq!(known_card("3080 ti").unwrap().vram_bytes_total, ByteSize(12 << 30));
        assert!(known_card("RTX 9999").is_err());
    }
}
