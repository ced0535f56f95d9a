//! Sizes in bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A number of bytes that reads and prints as `10GiB`, `512MiB`, `37KiB` or `12B`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Why a text is no size.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a size, expected a number with a unit such as 10GiB, 512MiB or 8GB")]
pub struct ByteSizeError(String);

const UNITS: [(&str, f64); 9] = [
    ("tib", (1u64 << 40) as f64),
    ("gib", (1u64 << 30) as f64),
    ("mib", (1u64 << 20) as f64),
    ("kib", 1024.0),
    ("tb", 1e12),
    ("gb", 1e9),
    ("mb", 1e6),
    ("kb", 1e3),
    ("b", 1.0),
];

impl FromStr for ByteSize {
    type Err = ByteSizeError;
    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let bad = || ByteSizeError(text.into());
        let lower = text.trim().to_ascii_lowercase();
        let (digits, scale) = UNITS
            .iter()
            .find_map(|(unit, scale)| Some((lower.strip_suffix(unit)?, *scale)))
            .ok_or_else(bad)?;
        let number: f64 = digits.trim_end().parse().map_err(|_| bad())?;
        let bytes = number * scale;
        if bytes.is_finite() && (0.0..1e18).contains(&bytes) {
            Ok(Self(bytes.round() as u64))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        let text = match self.0 {
            0..1024 => format!("{} B", self.0),
            1024..0x10_0000 => format!("{:.1} KiB", n / 1024.0),
            0x10_0000..0x4000_0000 => format!("{:.1} MiB", n / f64::from(1 << 20)),
            _ => format!("{:.2} GiB", n / f64::from(1 << 30)),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!("10GiB".parse(), Ok(ByteSize(10 << 30)));
        assert_eq!("1.5 gib".parse(), Ok(ByteSize(3 << 29)));
        assert_eq!("8GB".parse(), Ok(ByteSize(8_000_000_000)));
        for bad in ["10", "", "GiB", "-1GiB", "nanGiB", "1e30GiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_print_in_the_unit_that_fits() {
        assert_eq!(ByteSize(10 << 30).to_string(), "10.00 GiB");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
    }
}
