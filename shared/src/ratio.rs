//! One memory size over another, in whole numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// A ratio in ten-thousandths: 10,342 is 1.0342.
///
/// Whole numbers, because ratios live in the replicated state: two nodes must agree on every bit of it, whatever their
/// compilers fuse or their libraries round, and a sorted list of them must have one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(pub u32);

impl Default for Ratio {
    fn default() -> Self {
        Self::ONE
    }
}

impl Ratio {
    /// One to one.
    pub const ONE: Self = Self(10_000);

    /// `part` over `whole`, rounded up; `None` over nothing.
    #[must_use]
    pub fn of(part: ByteSize, whole: ByteSize) -> Option<Self> {
        let scaled = u128::from(part.0) * u128::from(Self::ONE.0);
        let ratio = (whole.0 > 0).then(|| scaled.div_ceil(u128::from(whole.0)))?;
        Some(Self(u32::try_from(ratio).unwrap_or(u32::MAX)))
    }

    /// So much of `bytes`, rounded up.
    #[must_use]
    pub fn times(self, bytes: ByteSize) -> ByteSize {
        let scaled = u128::from(bytes.0) * u128::from(self.0);
        let product = scaled.div_ceil(u128::from(Self::ONE.0));
        ByteSize(u64::try_from(product).unwrap_or(u64::MAX))
    }

    /// What becomes at most `bytes` when it is multiplied by this, rounded down.
    #[must_use]
    pub fn undone(self, bytes: ByteSize) -> ByteSize {
        let scaled = u128::from(bytes.0) * u128::from(Self::ONE.0);
        ByteSize(u64::try_from(scaled / u128::from(self.0.max(1))).unwrap_or(u64::MAX))
    }

    /// As a number for people.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE.0)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.3}", self.as_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_never_promises_too_little() {
        let (part, whole) = (ByteSize(1_000_000_007), ByteSize(999_999_937));
        let ratio = Ratio::of(part, whole).unwrap();
        assert!(ratio.times(whole) >= part);
        assert!(ratio.times(ratio.undone(part)) <= part);
        assert_eq!(Ratio::ONE.times(part), part);
        assert_eq!(Ratio::of(part, ByteSize(0)), None);
        assert_eq!(Ratio::of(ByteSize(u64::MAX), ByteSize(1)), Some(Ratio(u32::MAX)));
        assert_eq!(Ratio(10_342).to_string(), "1.034");
    }
}
