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

    /// Tokens at its beginning that `other` begins with too and that predict nothing here; at least one is left.
    fn begins_with(&self, other: &Self) -> usize {
        let tokens = self.input_ids.iter().zip(&other.input_ids);
        let predicted = self.labels.iter().skip(1);
        let same =
            |((own, other), label): &((&u32, &u32), &i64)| own == other && **label == IGNORED;
        tokens.zip(predicted).take_while(same).count()
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
    /// Tokens that come before each example's own and lie in an earlier one: `[examples]`, mostly none.
    pub prefixes: Vec<Range<usize>>,
    /// Which sequences of their data set these are; a sequence is one or more examples.
    pub sequences: Vec<usize>,
}

impl MicroBatch {
    /// Lays rows end to end and shifts their labels.
    #[must_use]
    pub fn of(rows: &[&Row]) -> Self {
        let mut batch = Self::empty();
        rows.iter().for_each(|row| batch.push(row, 0..0));
        batch
    }

    /// As [`Self::of`], the second of each two rows without what it begins with as the first does and learns nothing
    /// from: answers to one prompt share all of it but its last token, which predicts another one for each.
    #[must_use]
    pub fn of_pairs(rows: &[&Row]) -> Self {
        let mut batch = Self::empty();
        for pair in rows.chunks(2) {
            let start = batch.input_ids.len();
            for (row, before) in pair.iter().zip([None, pair.first()]) {
                let shared = before.map_or(0, |before| row.begins_with(before));
                batch.push(row, start..start + shared);
            }
        }
        batch
    }

    fn empty() -> Self {
        Self { cu_seqlens: vec![0], ..Self::default() }
    }

    /// Appends what of `row` comes after `prefix`, where its first tokens lie.
    fn push(&mut self, row: &Row, prefix: Range<usize>) {
        self.input_ids.extend(&row.input_ids[prefix.len()..]);
        self.targets.extend(row.labels.iter().skip(prefix.len() + 1));
        self.targets.push(IGNORED);
        self.cu_seqlens.push(self.input_ids.len());
        self.prefixes.push(prefix);
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

    /// Tokens of all examples, each counted in every example that it belongs to.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.input_ids.len() + self.prefixes.iter().map(Range::len).sum::<usize>()
    }

    /// Tokens that are computed: each counts once.
    #[must_use]
    pub fn tokens_computed(&self) -> usize {
        self.input_ids.len()
    }

    /// Where each example's own tokens lie.
    pub fn examples(&self) -> impl Iterator<Item = Range<usize>> {
        self.cu_seqlens.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// The first of each two examples, or with `offset` 1 the second: the halves of pairs.
    #[must_use]
    pub fn every_second(&self, offset: usize) -> Self {
        let mut half = Self { sequences: self.sequences.clone(), ..Self::empty() };
        let examples = self.examples().zip(&self.prefixes).skip(offset).step_by(2);
        for (range, prefix) in examples {
            half.input_ids.extend(&self.input_ids[prefix.clone()]);
            half.targets.extend(std::iter::repeat_n(IGNORED, prefix.len()));
            half.input_ids.extend(&self.input_ids[range.clone()]);
            half.targets.extend(&self.targets[range]);
            half.cu_seqlens.push(half.input_ids.len());
            half.prefixes.push(0..0);
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
    fn answers_share_their_prompt_but_for_the_token_that_predicts_them() {
        let row = |ids: &[u32], prompt: usize| Row {
            input_ids: ids.to_vec(),
            labels: (0..)
                .zip(ids)
                .map(|(at, id)| if at < prompt { IGNORED } else { i64::from(*id) })
                .collect(),
        };
        let (chosen, rejected) = (row(&[1, 2, 3, 7, 8], 3), row(&[1, 2, 3, 7, 9, 4], 3));
        let (other, short) = (row(&[1, 5, 6], 1), row(&[2], 1));
        let mut batch = MicroBatch::of_pairs(&[&chosen, &rejected, &other, &short]);
        assert_eq!(batch.input_ids, [1, 2, 3, 7, 8, 3, 7, 9, 4, 1, 5, 6, 2]);
        let none = IGNORED;
        assert_eq!(batch.targets, [none, none, 7, 8, none, 7, 9, 4, none, 5, 6, none, none]);
        assert_eq!(batch.cu_seqlens, [0, 5, 9, 12, 13]);
        assert_eq!(batch.prefixes, [0..0, 0..2, 9..9, 9..9]);
        assert_eq!((batch.tokens(), batch.tokens_computed()), (15, 13));
        // Each half is what it is without the other.
        for (which, rows) in [[&chosen, &other], [&rejected, &short]].iter().enumerate() {
            assert_eq!(batch.every_second(which), MicroBatch::of(rows));
        }
        // Labels of a prompt are those of the answer it lies before.
        assert_eq!(batch.label_prompts(), [2, 0, 0, 0]);
        assert_eq!(batch.supervised_each().collect::<Vec<_>>(), [4, 3, 2, 0]);

        // Where nothing is left to learn, one token stays.
        let prompt = row(&[1, 2, 3], 3);
        let cut = MicroBatch::of_pairs(&[&prompt, &prompt]);
        assert_eq!((cut.cu_seqlens, cut.prefixes), (vec![0, 3, 4], vec![0..0, 0..2]));
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
