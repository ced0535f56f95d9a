//! A data set ready for training: sequences over stored rows, and what became of the rows that did not fit.

use std::path::PathBuf;
use std::sync::Arc;

use fleetune_shared::recipe::{DataSettings, PackingStrategy};
use fleetune_shared::{BlobHash, ModelSpec};
use serde::{Deserialize, Serialize};

use super::batch::Row;
use super::load;
use super::pack::{self, Piece};
use super::sequences::Sequences;
use super::store::RowStore;
use super::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// What the files held and what became of it; goes into `report.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataStats {
    /// Rows kept.
    pub rows: u64,
    /// Rows left out because they were longer than `max_length`, or because nothing to learn was left of them
    /// after they were cut.
    pub dropped: u64,
    /// Rows cut at `max_length`.
    pub truncated: u64,
    /// Tokens of all rows kept.
    pub tokens: u64,
    /// Those of them that are learned.
    pub supervised: u64,
    /// Tokens of the longest row.
    pub longest: usize,
}

impl DataStats {
    /// Counts a row that is kept.
    pub(super) fn count(&mut self, row: &Row) {
        self.rows += 1;
        self.tokens += row.input_ids.len() as u64;
        self.supervised += row.supervised() as u64;
        self.longest = self.longest.max(row.input_ids.len());
    }
}

/// Sequences ready for training, at least one. A sequence is what a micro-batch counts: one row, or a packed bin of
/// rows.
#[derive(Clone, Debug)]
pub struct Dataset {
    store: Arc<RowStore>,
    sequences: Sequences,
    /// Counts over the rows.
    pub stats: DataStats,
    /// What the user should know about the rows, in whole sentences.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Reads, renders and tokenises files. Pre-tokenised rows need no tokenizer.
    ///
    /// # Errors
    /// The first row that is damaged, in the wrong layout, too long (unless the settings cut or drop it) or without
    /// a token to learn, by file and line; files that hold no row.
    pub fn load(
        paths: &[PathBuf],
        settings: &DataSettings,
        tokenizer: Option<&Tokenizer>,
        spec: &ModelSpec,
    ) -> Result<Self> {
        let (store, stats, notes) = load::load(paths, settings, tokenizer, spec)?;
        let dataset = Self::over(store, stats, notes)?;
        match settings.packing.0 {
            None => Ok(dataset),
            Some(strategy) => dataset.packed(strategy, settings.max_length),
        }
    }

    /// A data set made elsewhere, such as in a test.
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        let mut stats = DataStats::default();
        rows.iter().for_each(|row| stats.count(row));
        let store = RowStore::of(rows);
        let sequences = Sequences::single(pieces(&store));
        Self { store: Arc::new(store), sequences, stats, notes: Vec::new() }
    }

    fn over(store: RowStore, stats: DataStats, notes: Vec<String>) -> Result<Self> {
        // Rows are numbered, and tokens of a row counted, in 32 bits.
        if u32::try_from(store.len()).is_err() {
            let rows = store.len();
            return Err(EngineError::input(format!(
                "{rows} rows, expected at most {}; set `max_samples`",
                u32::MAX
            )));
        }
        let sequences = Sequences::single(pieces(&store));
        Ok(Self { store: Arc::new(store), sequences, stats, notes })
    }

    /// The same rows in sequences of up to `max_length` tokens. A bin that holds nothing to learn, such as one inside
    /// a very long prompt, is left out.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn packed(mut self, strategy: PackingStrategy, max_length: usize) -> Result<Self> {
        let rows = self.sequences.pieces().to_vec();
        let max_length = u32::try_from(max_length).unwrap_or(u32::MAX);
        let mut bins = match strategy {
            PackingStrategy::Bfd => pack::best_fit(rows, max_length),
            PackingStrategy::BfdSplit => pack::best_fit(pack::split(&rows, max_length), max_length),
            PackingStrategy::Wrapped => pack::wrap(&rows, max_length),
        };
        let mut fault = None;
        bins.retain(|bin| {
            self.teaches(bin).unwrap_or_else(|error| {
                fault.get_or_insert(error);
                false
            })
        });
        if let Some(error) = fault {
            return Err(error);
        }
        self.sequences = Sequences::packed(bins);
        Ok(self)
    }

    /// Whether a token of these pieces is learned. Every whole row has one.
    fn teaches(&self, bin: &[Piece]) -> Result<bool> {
        let whole =
            |piece: &Piece| piece.tokens as usize == self.store.tokens_of(piece.row as usize);
        if bin.iter().any(whole) {
            return Ok(true);
        }
        for piece in bin {
            if self.read(*piece)?.supervised() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sequences in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of sequence `i`.
    #[must_use]
    pub fn tokens_of(&self, i: usize) -> usize {
        self.sequences.get(i).iter().map(|piece| piece.tokens as usize).sum()
    }

    /// The examples of sequence `i`, which do not see each other.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn sequence(&self, i: usize) -> Result<Vec<Row>> {
        self.sequences.get(i).iter().map(|piece| self.read(*piece)).collect()
    }

    /// All sequences in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Vec<Row>>> {
        (0..self.len()).map(|i| self.sequence(i))
    }

    /// Tells these sequences from others.
    #[must_use]
    pub fn hash(&self) -> BlobHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.store.hash().0);
        self.sequences.hash_into(&mut hasher);
        BlobHash(*hasher.finalize().as_bytes())
    }

    fn read(&self, piece: Piece) -> Result<Row> {
        self.store.read(piece.row as usize, piece.start as usize, piece.tokens as usize)
    }
}

fn pieces(store: &RowStore) -> Vec<Piece> {
    (0..store.len()).map(|row| Piece::whole(row as u32, store.tokens_of(row) as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{IGNORED, MicroBatch};

    /// A row that learns its last `learned` tokens.
    fn row(first: u32, tokens: u32, learned: u32) -> Row {
        let input_ids: Vec<u32> = (first..first + tokens).collect();
        let label =
            |id: &u32| if *id >= first + tokens - learned { i64::from(*id) } else { IGNORED };
        Row { labels: input_ids.iter().map(label).collect(), input_ids }
    }

    fn examples(dataset: &Dataset) -> Vec<Vec<Vec<u32>>> {
        let ids = |rows: Result<Vec<Row>>| rows.unwrap().into_iter().map(|row| row.input_ids);
        dataset.iter().map(|rows| ids(rows).collect()).collect()
    }

    #[test]
    fn packed_rows_stay_examples_of_their_own() {
        let data = Dataset::of(&[row(10, 3, 2), row(20, 6, 3), row(30, 2, 1)]);
        let packed = data.clone().packed(PackingStrategy::Bfd, 8).unwrap();
        assert_eq!(
            examples(&packed),
            [vec![vec![20, 21, 22, 23, 24, 25], vec![30, 31]], vec![vec![10, 11, 12]]]
        );
        assert_eq!((packed.len(), packed.tokens_of(0), packed.tokens_of(1)), (2, 8, 3));
        assert_ne!(packed.hash(), data.hash());
        let rows = packed.sequence(0).unwrap();
        let batch = MicroBatch::of(&rows.iter().collect::<Vec<_>>());
        assert_eq!(batch.cu_seqlens, [0, 6, 8]);
        assert_eq!(batch.targets, [IGNORED, IGNORED, 23, 24, 25, IGNORED, 31, IGNORED]);
    }

    #[test]
    fn a_bin_with_nothing_to_learn_is_left_out() {
        let data = Dataset::of(&[row(10, 9, 2)]);
        let split = data.clone().packed(PackingStrategy::BfdSplit, 4).unwrap();
        // The last token stands alone, so nothing predicts it; the one before begins no piece.
        assert_eq!(examples(&split), [[[14, 15, 16, 17]]]);
        assert_eq!(examples(&data.packed(PackingStrategy::Wrapped, 9).unwrap()).len(), 1);
    }
}
