//! What a user has had of the fleet: memory × time, of which half is forgotten each day.
//!
//! Whole numbers only and forgotten by whole hours on a fixed grid, so that the same log gives the same numbers
//! however often they were looked at.

use serde::{Deserialize, Serialize};

const HOUR_MS: u64 = 3_600_000;
/// 2^(−1/24) in units of 2⁻³²: what is left after an hour.
const HOURLY: u64 = 4_172_697_914;

/// Memory × time, in MiB·s, as of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    mib_s: u64,
    hour: u64,
}

impl Usage {
    /// What is left of it in MiB·s.
    #[must_use]
    pub fn at(self, now_ms: u64) -> u64 {
        let hours = (now_ms / HOUR_MS).saturating_sub(self.hour);
        let days = u32::try_from(hours / 24).unwrap_or(u32::MAX);
        let after_days = self.mib_s.checked_shr(days).unwrap_or(0);
        let hourly = |left: u64, _| ((u128::from(left) * u128::from(HOURLY)) >> 32) as u64;
        (0..hours % 24).fold(after_days, hourly)
    }

    /// With so much more.
    #[must_use]
    pub fn plus(self, mib_s: u64, now_ms: u64) -> Self {
        let hour = (now_ms / HOUR_MS).max(self.hour);
        Self { mib_s: self.at(now_ms).saturating_add(mib_s), hour }
    }
}

/// What a user holds right now, kept so that no question scans their jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    mib: u64,
    /// Sum of memory × the second since which it is held.
    mib_since_s: u128,
}

impl Holding {
    /// A promise counts from the start as if it had been held for an hour, so that users take turns while a
    /// plan is made.
    const AHEAD_S: u64 = 3600;

    pub(crate) fn add(&mut self, vram_bytes: u64, since_ms: u64) {
        self.mib += mib(vram_bytes);
        self.mib_since_s += u128::from(mib(vram_bytes)) * u128::from(since_ms / 1000);
    }

    pub(crate) fn remove(&mut self, vram_bytes: u64, since_ms: u64) {
        self.mib -= mib(vram_bytes);
        self.mib_since_s -= u128::from(mib(vram_bytes)) * u128::from(since_ms / 1000);
    }

    pub(crate) fn is_empty(self) -> bool {
        self.mib == 0
    }

    /// In MiB·s.
    pub(crate) fn at(self, now_ms: u64) -> u64 {
        let until = u128::from(self.mib) * u128::from(now_ms / 1000 + Self::AHEAD_S);
        u64::try_from(until.saturating_sub(self.mib_since_s)).unwrap_or(u64::MAX)
    }

    /// What one more promise adds, in MiB·s.
    pub(crate) fn of_one(vram_bytes: u64) -> u64 {
        mib(vram_bytes) * Self::AHEAD_S
    }
}

/// What a user had and holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub(super) usage: Usage,
    pub(super) holding: Holding,
}

impl Share {
    /// In MiB·s.
    pub(crate) fn at(self, now_ms: u64) -> u64 {
        self.usage.at(now_ms).saturating_add(self.holding.at(now_ms))
    }

    /// Something is promised.
    pub(crate) fn begin(&mut self, vram_bytes: u64, now_ms: u64) {
        self.holding.add(vram_bytes, now_ms);
    }

    /// What was promised is given back.
    pub(crate) fn end(&mut self, vram_bytes: u64, since_ms: u64, now_ms: u64) {
        self.holding.remove(vram_bytes, since_ms);
        self.usage = self.usage.plus(had(vram_bytes, since_ms, now_ms), now_ms);
    }
}

/// What one promise comes to, in MiB·s.
pub(crate) fn had(vram_bytes: u64, since_ms: u64, now_ms: u64) -> u64 {
    mib(vram_bytes).saturating_mul(now_ms.saturating_sub(since_ms) / 1000)
}

/// Memory in MiB; the smallest job counts too.
pub(crate) fn mib(vram_bytes: u64) -> u64 {
    (vram_bytes >> 20).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_left_after_a_day_however_often_one_looked() {
        let day = 24 * HOUR_MS;
        let once = Usage::default().plus(1_000_000, 0);
        assert_eq!(once.at(day), 500_000);
        assert_eq!(once.at(2 * day), 250_000);
        let often = (0..24).fold(once, |usage, hour| usage.plus(0, hour * HOUR_MS));
        assert!(often.at(day).abs_diff(500_000) < 30, "{}", often.at(day));
        assert!(once.at(12 * HOUR_MS).abs_diff(707_106) < 20);
        assert_eq!(once.at(100 * day), 0);
    }

    #[test]
    fn what_is_held_grows_with_time() {
        let mut holding = Holding::default();
        holding.add(1 << 30, 10_000);
        assert_eq!(holding.at(10_000), 1024 * 3600);
        assert_eq!(holding.at(70_000), 1024 * 3660);
        holding.remove(1 << 30, 10_000);
        assert!(holding.is_empty() && holding.at(99_000) == 0);
    }
}
