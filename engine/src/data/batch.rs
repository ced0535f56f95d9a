//! Rows and micro-batches: flat runs of tokens, never padded.

use std::ops::Range;

use fleetune_shared::recipe::TruncationMode;

/// The label of a position that teaches nothing, as in PyTorch's cross-entropy.
pub const IGNORED: i64 = -100;

/// One example after tokenisation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    /// Keeps `max_length` tokens of one end.
    pub(super) fn cut(&mut self, max_length: usize, mode: TruncationMode) {
        let over = self.input_ids.len().saturating_sub(max_length);
        if mode == TruncationMode::KeepEnd {
            self.input_ids.drain(..over);
            self.labels.drain(..over);
        }
        self.input_ids.truncate(max_length);
        self.labels.truncate(max_length);
    }

    /// Tokens before the first that is learned.
    pub(super) fn prompt(&self) -> usize {
        self.labels.iter().take_while(|label| **label == IGNORED).count()
    }

    /// Learns everything after the prompt: an answer to its very end, whatever a template writes behind it.
    pub(super) fn learn_answer(&mut self) {
        let prompt = self.prompt();
        let answer = self.input_ids.iter().skip(prompt).map(|id| i64::from(*id));
        self.labels.truncate(prompt);
        self.labels.extend(answer);
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
    /// Which sequences of their data set these are; a sequence is one or more examples.
    pub sequences: Vec<usize>,
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

    /// As [`Self::supervised`], example by example.
    pub fn supervised_each(&self) -> impl Iterator<Item = usize> {
        let labels = |range: Range<usize>| {
            self.targets[range].iter().filter(|target| **target != IGNORED).count()
        };
        self.examples().map(labels)
    }

    /// Tokens, all together.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Where the tokens of each example lie.
    pub fn examples(&self) -> impl Iterator<Item = Range<usize>> {
        self.cu_seqlens.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// The first of each two examples, or with `offset` 1 the second: the halves of pairs.
    #[must_use]
    pub fn every_second(&self, offset: usize) -> Self {
        let mut half =
            Self { cu_seqlens: vec![0], sequences: self.sequences.clone(), ..Self::default() };
        for range in self.examples().skip(offset).step_by(2) {
            half.input_ids.extend(&self.input_ids[range.clone()]);
            half.targets.extend(&self.targets[range]);
            half.cu_seqlens.push(half.input_ids.len());
        }
        half
    }

    /// Has the first of each two examples learn its prompt too, and says how many labels each example's prompt has.
    pub fn label_prompts(&mut self) -> Vec<usize> {
        let mut prompts = vec![0; self.cu_seqlens.len().saturating_sub(1)];
        let examples: Vec<_> = self.examples().enumerate().step_by(2).collect();
        for (example, range) in examples {
            let labelled = range.start..range.end.saturating_sub(1).max(range.start);
            for at in labelled.take_while(|at| self.targets[*at] == IGNORED).collect::<Vec<_>>() {
                self.targets[at] = i64::from(self.input_ids[at + 1]);
                prompts[example] += 1;
            }
        }
        prompts
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
        assert_eq!(batch.supervised_each().collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn pairs_come_apart() {
        let a = Row { input_ids: vec![1, 2, 3, 4], labels: vec![IGNORED, IGNORED, 3, 4] };
        let b = Row { input_ids: vec![1, 2, 5], labels: vec![IGNORED, IGNORED, 5] };
        let mut batch = MicroBatch::of(&[&a, &b, &b, &a]);
        assert_eq!(batch.every_second(0), MicroBatch::of(&[&a, &b]));
        assert_eq!(batch.every_second(1), MicroBatch::of(&[&b, &a]));
        assert_eq!(batch.label_prompts(), [1, 0, 1, 0]);
        assert_eq!(batch.targets[..7], [2, 3, 4, IGNORED, IGNORED, 5, IGNORED]);
        assert_eq!(batch.targets[7..], [2, 5, IGNORED, IGNORED, 3, 4, IGNORED]);
    }
}
