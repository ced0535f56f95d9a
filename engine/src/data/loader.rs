//! The order of sequences and how they are cut into steps: an epoch is a permutation, a step is `accumulation`
//! micro-batches of `micro_batch` sequences, and the last step of an epoch is as small as what is left. Steps never mix
//! epochs, so the arithmetic of epochs, steps and warm-up is that of transformers' `Trainer`. A micro-batch may pass in
//! pieces, see [`fleetune_shared::piece_tokens`].

use fleetune_shared::recipe::{Batching, Duration, Sampling};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Dataset, MicroBatch, piece};
use crate::{EngineError, Result};

/// Where a run stands in its data; with the seed it is all a resumed run needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Epochs behind.
    pub epoch: u64,
    /// Sequences of this epoch behind.
    pub position: usize,
}

/// Hands out a data set step by step, for ever.
#[derive(Clone, Debug)]
pub struct Loader {
    data: Dataset,
    batching: Batching,
    /// Tokens of a piece that is more than one sequence.
    piece: usize,
    sampling: Sampling,
    seed: u64,
    cursor: Cursor,
    /// Sequence numbers in this epoch's order; a function of seed and epoch, so never stored.
    order: Vec<usize>,
}

impl Loader {
    /// Begins at the first sequence of the first epoch. A [`Dataset`] that was loaded has at least one.
    #[must_use]
    pub fn new(dataset: &Dataset, batching: Batching, sampling: Sampling, seed: u64) -> Self {
        let order = epoch_order(dataset.len(), sampling, seed, 0);
        let cursor = Cursor::default();
        Self { data: dataset.clone(), batching, piece: usize::MAX, sampling, seed, cursor, order }
    }

    /// Hands micro-batches out in runs of sequences with at most so many tokens together, unless one alone has more.
    #[must_use]
    pub fn in_pieces(self, tokens: Option<usize>) -> Self {
        Self { piece: tokens.unwrap_or(usize::MAX), ..self }
    }

    /// Where the next step begins.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Continues where a checkpoint left off.
    ///
    /// # Errors
    /// A cursor that does not belong to this data and batching.
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        let step_rows = self.step_rows();
        if cursor.position >= self.data.len() || !cursor.position.is_multiple_of(step_rows) {
            return Err(EngineError::input(format!(
                "checkpoint stands at row {} of its epoch, but this run has {} rows in steps of {step_rows}; \
                 resume with the data and batch sizes it was begun with",
                cursor.position,
                self.data.len()
            )));
        }
        self.cursor = cursor;
        self.order = epoch_order(self.data.len(), self.sampling, self.seed, cursor.epoch);
        Ok(())
    }

    /// The micro-batches of one optimizer step, or their pieces: at least one, none of them empty.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn next_step(&mut self) -> Result<Vec<MicroBatch>> {
        let end = (self.cursor.position + self.step_rows()).min(self.order.len());
        let batches = self
            .pieces(&self.order[self.cursor.position..end])?
            .into_iter()
            .map(|sequences| self.data.micro_batch(sequences))
            .collect::<Result<_>>()?;
        self.cursor.position = end;
        if end == self.order.len() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, position: 0 };
            self.order = epoch_order(self.data.len(), self.sampling, self.seed, self.cursor.epoch);
        }
        Ok(batches)
    }

    /// Optimizer steps in one pass over the data.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        let batches = self.data.len().div_ceil(self.batching.micro_batch);
        batches.div_ceil(self.batching.accumulation) as u64
    }

    /// Optimizer steps of the whole run: `max_steps`, or epochs × steps per epoch, rounded up.
    #[must_use]
    pub fn steps_total(&self, duration: Duration) -> u64 {
        match duration {
            Duration::Steps(steps) => steps,
            Duration::Epochs(epochs) => (epochs * self.steps_per_epoch() as f64).ceil() as u64,
        }
    }

    /// Epochs behind, with a fraction.
    #[must_use]
    pub fn epochs_done(&self) -> f64 {
        self.cursor.epoch as f64 + self.cursor.position as f64 / self.data.len().max(1) as f64
    }

    /// The largest micro-batch, or piece of one, that any order can produce. A run that survives it will not run out of
    /// memory later.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn longest_step(&self) -> Result<MicroBatch> {
        let (longest, _) = self.longest(&self.sizes()?);
        self.data.micro_batch(&longest)
    }

    /// As [`Self::longest_step`]; `None` where the next step has one as large.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn trial_step(&self) -> Result<Option<MicroBatch>> {
        let sizes = self.sizes()?;
        let (longest, tokens) = self.longest(&sizes);
        let end = (self.cursor.position + self.step_rows()).min(self.order.len());
        let next = self.pieces(&self.order[self.cursor.position..end])?;
        if next.iter().any(|piece| piece.iter().map(|i| sizes[*i]).sum::<usize>() == tokens) {
            return Ok(None);
        }
        self.data.micro_batch(&longest).map(Some)
    }

    /// Sequences that are learned from together.
    fn pieces<'s>(&self, step: &'s [usize]) -> Result<Vec<&'s [usize]>> {
        let mut pieces = Vec::new();
        for sequences in step.chunks(self.batching.micro_batch) {
            let sizes = sequences.iter().map(|i| self.data.tokens_computed_of(*i));
            let sizes: Vec<usize> = sizes.collect::<Result<_>>()?;
            let cuts = piece::cut(&sizes, self.piece).into_iter();
            pieces.extend(cuts.map(|range| &sequences[range]));
        }
        Ok(pieces)
    }

    /// Tokens that are computed for each sequence.
    fn sizes(&self) -> Result<Vec<usize>> {
        (0..self.data.len()).map(|i| self.data.tokens_computed_of(i)).collect()
    }

    /// The sequences of the largest piece, and its tokens.
    fn longest(&self, sizes: &[usize]) -> (Vec<usize>, usize) {
        let sequences = piece::largest(sizes, self.batching.micro_batch, self.piece);
        let tokens = sequences.iter().map(|i| sizes[*i]).sum();
        (sequences, tokens)
    }

    fn step_rows(&self) -> usize {
        self.batching.micro_batch * self.batching.accumulation
    }
}

/// Fisher–Yates over ChaCha12, one stream per epoch. Spelled out here because a run must resume in the same order
/// after an upgrade of `rand`.
fn epoch_order(rows: usize, sampling: Sampling, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    if sampling == Sampling::Random {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        rng.set_stream(epoch);
        for last in (1..rows).rev() {
            let draw = u128::from(rng.next_u64()) * (last as u128 + 1);
            order.swap(last, (draw >> 64) as usize);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::Row;

    /// Row `i` has `i + 2` tokens, all equal to `i`.
    fn dataset(rows: usize) -> Dataset {
        let row = |i| Row { input_ids: vec![i as u32; i + 2], labels: vec![i as i64; i + 2] };
        Dataset::of(&(0..rows).map(row).collect::<Vec<_>>())
    }

    fn loader(dataset: &Dataset, micro_batch: usize, accumulation: usize, seed: u64) -> Loader {
        Loader::new(dataset, Batching { micro_batch, accumulation }, Sampling::Random, seed)
    }

    fn row_numbers(step: &[MicroBatch]) -> Vec<u32> {
        let rows = |batch: &MicroBatch| -> Vec<u32> {
            batch.cu_seqlens.windows(2).map(|w| batch.input_ids[w[0]]).collect()
        };
        step.iter().flat_map(rows).collect()
    }

    #[test]
    fn steps_are_those_of_transformers() {
        let data = dataset(10);
        for (micro_batch, accumulation, per_epoch) in [(1, 1, 10), (3, 1, 4), (3, 2, 2), (4, 8, 1)]
        {
            let loader = loader(&data, micro_batch, accumulation, 1);
            assert_eq!(loader.steps_per_epoch(), per_epoch);
            assert_eq!(loader.steps_total(Duration::Epochs(2.0)), 2 * per_epoch);
            assert_eq!(loader.steps_total(Duration::Steps(7)), 7);
        }
        assert_eq!(loader(&data, 3, 1, 1).steps_total(Duration::Epochs(0.3)), 2);
    }

    #[test]
    fn the_last_step_of_an_epoch_has_what_is_left() {
        let data = dataset(7);
        let mut loader = loader(&data, 2, 2, 1);
        let sizes = |step: &[MicroBatch]| -> Vec<usize> {
            step.iter().map(|b| b.cu_seqlens.len() - 1).collect()
        };
        assert_eq!(sizes(&loader.next_step().unwrap()), [2, 2]);
        assert_eq!(sizes(&loader.next_step().unwrap()), [2, 1]);
        assert_eq!(loader.cursor(), Cursor { epoch: 1, position: 0 });
        assert_eq!(loader.epochs_done(), 1.0);
    }

    #[test]
    fn a_step_knows_whether_it_is_the_longest() {
        let data = dataset(6);
        let batching = Batching { micro_batch: 2, accumulation: 1 };
        let mut loader = Loader::new(&data, batching, Sampling::Sequential, 0);
        let mut longest = || {
            let trial = loader.trial_step().unwrap();
            loader.next_step().unwrap();
            trial.is_none()
        };
        // Rows grow, so the last two of the six are the longest together.
        assert_eq!([longest(), longest(), longest(), longest()], [false, false, true, false]);
    }

    #[test]
    fn the_longest_micro_batch_bounds_every_other() {
        let data = dataset(9);
        let mut loader = loader(&data, 2, 1, 3);
        let longest = loader.longest_step().unwrap().tokens();
        assert_eq!(longest, 10 + 9);
        assert!((0..50).all(|_| loader.next_step().unwrap().iter().all(|b| b.tokens() <= longest)));
    }

    #[test]
    fn a_foreign_cursor_is_refused() {
        let data = dataset(10);
        let refused = |position| {
            loader(&data, 2, 2, 1).seek(Cursor { epoch: 0, position }).unwrap_err().to_string()
        };
        assert!(refused(3).contains("row 3 of its epoch, but this run has 10 rows in steps of 4"));
        assert!(refused(12).contains("row 12"));
    }

    /// A checkpoint of an earlier version must find its rows again: these orders never change.
    #[test]
    fn every_epoch_has_an_order_of_its_own_for_ever() {
        let order = |seed, epoch| epoch_order(8, Sampling::Random, seed, epoch);
        assert_eq!(order(42, 0), [5, 7, 1, 0, 2, 6, 3, 4]);
        assert_eq!(order(42, 1), [7, 4, 5, 1, 6, 0, 3, 2]);
        assert_eq!(order(43, 0), [4, 3, 5, 0, 1, 7, 2, 6]);
    }

    #[test]
    fn sequential_rows_stay_in_file_order() {
        let data = dataset(5);
        let batching = Batching { micro_batch: 5, accumulation: 1 };
        let mut loader = Loader::new(&data, batching, Sampling::Sequential, 9);
        for _ in 0..2 {
            assert_eq!(row_numbers(&loader.next_step().unwrap()), [0, 1, 2, 3, 4]);
        }
    }

    proptest! {
        #[test]
        fn an_epoch_holds_every_row_once(rows in 1usize..60, micro_batch in 1usize..9, accumulation in 1usize..5, seed: u64) {
            let data = dataset(rows);
            let mut loader = loader(&data, micro_batch, accumulation, seed);
            for epoch in 0..3 {
                let mut seen = Vec::new();
                let mut steps = 0;
                while loader.cursor().epoch == epoch {
                    let step = loader.next_step().unwrap();
                    prop_assert!(!step.is_empty() && step.len() <= accumulation);
                    seen.extend(row_numbers(&step));
                    steps += 1;
                }
                prop_assert_eq!(steps, loader.steps_per_epoch());
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..rows as u32).collect::<Vec<_>>());
            }
        }

        #[test]
        fn smaller_portions_of_a_step_hold_the_same_rows(rows in 1usize..40, micro_batch in 1usize..4, parts in 1usize..5, accumulation in 1usize..4, steps in 0usize..30, seed: u64) {
            let data = dataset(rows);
            let mut large = loader(&data, micro_batch * parts, accumulation, seed);
            for _ in 0..steps {
                large.next_step().unwrap();
            }
            let mut small = loader(&data, micro_batch, parts * accumulation, seed);
            small.seek(large.cursor()).unwrap();
            prop_assert_eq!(small.steps_per_epoch(), large.steps_per_epoch());
            for _ in 0..20 {
                prop_assert_eq!(row_numbers(&small.next_step().unwrap()), row_numbers(&large.next_step().unwrap()));
                prop_assert_eq!(small.cursor(), large.cursor());
            }
        }

        #[test]
        fn a_resumed_loader_goes_on_as_if_never_stopped(rows in 1usize..40, micro_batch in 1usize..5, accumulation in 1usize..4, steps in 0usize..30, seed: u64) {
            let data = dataset(rows);
            let mut whole = loader(&data, micro_batch, accumulation, seed);
            for _ in 0..steps {
                whole.next_step().unwrap();
            }
            let saved = serde_json::to_string(&whole.cursor()).unwrap();
            let mut resumed = loader(&data, micro_batch, accumulation, seed);
            resumed.seek(serde_json::from_str(&saved).unwrap()).unwrap();
            for _ in 0..20 {
                prop_assert_eq!(whole.next_step().unwrap(), resumed.next_step().unwrap());
            }
        }
    }
}
