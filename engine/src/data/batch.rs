//! Rows and micro-batches: flat runs of tokens, never padded.

/// The label of a position that teaches nothing, as in PyTorch's cross-entropy.
pub const IGNORED: i64 = -100;

/// One example after tokenisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// As long as `input_ids` and **not shifted**: `labels[i]` is `input_ids[i]` or [`IGNORED`].
    pub labels: Vec<i64>,
}

impl Row {
    /// Labels that are predicted from a position before them.
    #[must_use]
    pub fn supervised(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORED).count()
    }
}

/// Examples laid end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Token ids of all examples, `[tokens]`.
    pub input_ids: Vec<u32>,
    /// What each position predicts, `[tokens]`: the **next** token of the same example, or [`IGNORED`]; the last
    /// position of each example predicts nothing.
    pub targets: Vec<i64>,
    /// Where each example begins, and the end: `[examples + 1]`, first 0, last `tokens`.
    pub cu_seqlens: Vec<usize>,
}

impl MicroBatch {
    /// Lays rows end to end and shifts their labels.
    #[must_use]
    pub fn of(rows: &[&Row]) -> Self {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        for row in rows {
            batch.input_ids.extend(&row.input_ids);
            batch.targets.extend(row.labels.iter().skip(1));
            batch.targets.push(IGNORED);
            batch.cu_seqlens.push(batch.input_ids.len());
        }
        batch
    }

    /// Positions that predict something.
    #[must_use]
    pub fn supervised(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORED).count()
    }

    /// Tokens, all together.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_shift_within_an_example_only() {
        let a = Row { input_ids: vec![1, 2, 3], labels: vec![IGNORED, 2, 3] };
        let b = Row { input_ids: vec![4, 5], labels: vec![4, 5] };
        let batch = MicroBatch::of(&[&a, &b]);
        assert_eq!(batch.input_ids, [1, 2, 3, 4, 5]);
        assert_eq!(batch.targets, [2, 3, IGNORED, 5, IGNORED]);
        assert_eq!(batch.cu_seqlens, [0, 3, 5]);
        assert_eq!(batch.supervised(), a.supervised() + b.supervised());
    }
}
