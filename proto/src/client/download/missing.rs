//! Which chunks of a blob nobody has brought or is bringing.

use std::collections::BTreeSet;
use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct Missing(BTreeSet<u64>);

impl Missing {
    /// The first chunks that stand together, at most so many; they are missing no more unless they are given back.
    pub(super) fn take(&mut self, at_most: u64) -> Option<Range<u64>> {
        let start = self.0.pop_first()?;
        let mut end = start + 1;
        while end - start < at_most && self.0.remove(&end) {
            end += 1;
        }
        Some(start..end)
    }

    /// These did not come.
    pub(super) fn give_back(&mut self, chunks: Range<u64>) {
        self.0.extend(chunks);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_taken_in_runs_and_come_back() {
        let mut missing = Missing::default();
        missing.give_back(0..3);
        missing.give_back(5..7);
        assert_eq!(missing.take(2), Some(0..2));
        assert_eq!(missing.take(u64::MAX), Some(2..3), "what stands together");
        missing.give_back(1..2);
        assert_eq!(missing.take(9), Some(1..2));
        assert_eq!(missing.take(9), Some(5..7));
        assert!(missing.is_empty() && missing.take(1).is_none());
    }
}
