//! What cards have in common that hold a job in the same way.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Card, Device};

/// Letters and digits of a name that are kept: names come from agents, families are kept for ever.
const BYTES: usize = 24;

/// Words that say who made a card, not which it is.
const VENDOR: [&str; 13] = [
    "nvidia",
    "geforce",
    "quadro",
    "tesla",
    "amd",
    "radeon",
    "instinct",
    "intel",
    "arc",
    "corporation",
    "graphics",
    "generation",
    "gpu",
];

/// Cards that are the same but for what their vendor calls them: what computes, and the name in lower case without
/// vendor words, spaces and signs. `NVIDIA GeForce RTX 3080` and `rtx 3080` are both `rtx3080`.
///
/// A fixed array and `Copy`, because plans compare thousands of them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(from = "Written", into = "Written")]
pub struct CardFamily {
    /// What computes; a declared card of a name is not the card of that name.
    pub device: Device,
    name: [u8; BYTES],
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    device: Device,
    name: String,
}

impl CardFamily {
    /// The family of a card.
    #[must_use]
    pub fn of(card: &Card) -> Self {
        let lower = card.name.to_ascii_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
        let kept = words.filter(|word| !VENDOR.contains(word)).flat_map(str::bytes);
        Self::new(card.device, kept)
    }

    fn new(device: Device, letters: impl Iterator<Item = u8>) -> Self {
        let mut name = [0; BYTES];
        name.iter_mut()
            .zip(letters.filter(u8::is_ascii_alphanumeric))
            .for_each(|(to, from)| *to = from);
        Self { device, name }
    }

    /// The name without vendor words.
    #[must_use]
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(BYTES);
        // Only ASCII was let in.
        std::str::from_utf8(&self.name[..end]).unwrap_or_default()
    }
}

impl fmt::Display for CardFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.device) {
            ("", Device::Cuda) => f.pad("a card"),
            ("", Device::Cpu) => f.pad("a declared card"),
            (name, Device::Cuda) => f.pad(name),
            (name, Device::Cpu) => f.pad(&format!("{name} (declared)")),
        }
    }
}

impl From<Written> for CardFamily {
    fn from(written: Written) -> Self {
        Self::new(written.device, written.name.bytes())
    }
}

impl From<CardFamily> for Written {
    fn from(family: CardFamily) -> Self {
        Self { device: family.device, name: family.name().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteSize;

    fn of(name: &str, device: Device) -> CardFamily {
        CardFamily::of(&Card {
            name: name.into(),
            vram_bytes_total: ByteSize(10 << 30),
            compute_capability: None,
            device,
        })
    }

    #[test]
    fn vendor_words_do_not_make_a_family() {
        let family = of("RTX 3080", Device::Cuda);
        for name in ["NVIDIA GeForce RTX 3080", "rtx3080", "GeForce RTX-3080", " nvidia rtx 3080 "]
        {
            assert_eq!(of(name, Device::Cuda), family, "{name}");
        }
        assert_eq!(family.name(), "rtx3080");
        assert_eq!(
            of("NVIDIA RTX 4000 Ada Generation", Device::Cuda),
            of("RTX 4000 Ada", Device::Cuda)
        );
        for name in ["RTX 3080 Ti", "RTX 3090", "RTX 3080 Laptop GPU"] {
            assert_ne!(of(name, Device::Cuda), family, "{name}");
        }
        assert_ne!(of("RTX 3080", Device::Cpu), family);
        assert_eq!(of("RTX 3080", Device::Cpu).to_string(), "rtx3080 (declared)");
        assert_eq!(of("Карта", Device::Cuda).to_string(), "a card");
    }

    #[test]
    fn a_family_reads_as_it_was_written_however_long_the_name() {
        let family = of(&"x".repeat(1000), Device::Cuda);
        assert_eq!(family.name().len(), BYTES);
        let text = serde_json::to_string(&family).unwrap();
        assert_eq!(serde_json::from_str::<CardFamily>(&text).unwrap(), family);
    }
}
