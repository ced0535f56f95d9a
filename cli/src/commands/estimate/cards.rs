//! Cards by name.

use fleetune_shared::{ByteSize, Card, Device};

use crate::Failure;

/// Cards that people have and their memory in GiB.
const KNOWN: [(&str, u64); 36] = [
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
    ("RTX 2000 Ada", 16),
    ("RTX A4000", 16),
    ("T4", 16),
    ("RTX 4000 Ada", 20),
    ("RTX A4500", 20),
    ("RTX 3090", 24),
    ("RTX 4090", 24),
    ("RTX A5000", 24),
    ("A10", 24),
    ("L4", 24),
    ("RTX 5090", 32),
    ("RTX 5000 Ada", 32),
    ("A100 40GB", 40),
    ("RTX A6000", 48),
    ("RTX 6000 Ada", 48),
    ("L40S", 48),
    ("A40", 48),
    ("A100 80GB", 80),
    ("H100", 80),
    ("H200", 141),
];

/// One card of each size that desktops have.
const SHOWN: [&str; 8] = [
    "RTX 4060",
    "RTX 3080",
    "RTX 3060",
    "RTX 4080",
    "RTX 4000 Ada",
    "RTX 4090",
    "RTX 5090",
    "RTX A6000",
];

/// A card of a name and a size.
pub(super) fn card(name: &str, vram: ByteSize) -> Card {
    Card {
        name: name.to_owned(),
        vram_bytes_total: vram,
        compute_capability: None,
        device: Device::Cuda,
    }
}

/// Cards that people have, one of each size.
pub(in crate::commands) fn known_cards() -> Vec<Card> {
    let shown = KNOWN.iter().filter(|(name, _)| SHOWN.contains(name));
    shown.map(|(name, gib)| card(name, ByteSize(gib << 30))).collect()
}

/// A known card by its name, however it is written.
pub(in crate::commands) fn known_card(name: &str) -> Result<Card, Failure> {
    let key = |name: &str| {
        let text = name.to_lowercase().replace("nvidia", "").replace("geforce", "");
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>()
    };
    let wanted = key(name);
    let is = |known: &str, wanted: &str| {
        let known = key(known);
        known == wanted || known.strip_prefix("rtx").or(known.strip_prefix("gtx")) == Some(wanted)
    };
    // Tables often say the size too: L40S-48GB.
    let sized = |(known, gib): &&(&str, u64)| is(&format!("{known} {gib}GB"), &wanted);
    let found =
        KNOWN.iter().find(|(known, _)| is(known, &wanted)).or_else(|| KNOWN.iter().find(sized));
    found.map(|(known, gib)| card(known, ByteSize(gib << 30))).ok_or_else(|| {
        let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
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
        assert_eq!(known_card("4000 Ada").unwrap().vram_bytes_total, ByteSize(20 << 30));
        assert_eq!(known_card("L40S-48GB").unwrap().vram_bytes_total, ByteSize(48 << 30));
        assert_eq!(known_card("A100-80GB").unwrap().vram_bytes_total, ByteSize(80 << 30));
        assert!(known_card("RTX 9999").is_err());
        assert!(known_card("").is_err());
    }
}
