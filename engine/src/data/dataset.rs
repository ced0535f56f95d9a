//! A data set ready for training: sequences over stored rows, and what became of the rows that did not fit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleetune_shared::recipe::{DataFormat, DataSettings, PackingStrategy, TruncationMode};
use fleetune_shared::{BlobHash, ModelSpec, RopeScaling};
use serde::{Deserialize, Serialize};

use super::batch::{MicroBatch, Row};
use super::load::{self, Loaded, Note};
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
    /// Counts a line of a file that is kept, whatever number of rows it became.
    pub(super) fn count(&mut self, rows: &[Row]) {
        self.rows += 1;
        for row in rows {
            self.tokens += row.input_ids.len() as u64;
            self.supervised += row.supervised() as u64;
            self.longest = self.longest.max(row.input_ids.len());
        }
    }
}

/// Sequences ready for training, at least one. A sequence is what a micro-batch counts: one row, or a packed bin of
/// rows.
#[derive(Clone, Debug)]
pub struct Dataset {
    store: Arc<RowStore>,
    sequences: Arc<Sequences>,
    /// Which rows are answers that were wanted; empty unless they were judged.
    verdicts: Arc<Vec<bool>>,
    /// How each sequence is joined by its prompt with another's answer, if it is.
    mismatch: Option<Mismatch>,
    /// Whether a micro-batch holds what two answers begin with once.
    shares_prompts: bool,
    /// Counts over the rows.
    pub stats: DataStats,
    /// What the user should know about the rows, in whole sentences.
    pub notes: Vec<String>,
}

/// Prompts with answers of other rows: how far a policy has moved shows in what it makes of them (KTO).
#[derive(Clone, Copy, Debug)]
struct Mismatch {
    /// Sequences that exchange their answers, each taking that of the one before it.
    group: usize,
    max_length: usize,
    truncation: TruncationMode,
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
        let sets = [paths.to_vec()];
        Self::of_sets(&sets, settings, tokenizer, spec, None)?.0.pack(settings)
    }

    /// As [`Self::load`] of several sets, one after the other and not packed, and how many sequences each has.
    pub(super) fn of_sets(
        sets: &[Vec<PathBuf>],
        settings: &DataSettings,
        tokenizer: Option<&Tokenizer>,
        spec: &ModelSpec,
        cache: Option<&Path>,
    ) -> Result<(Self, Vec<u32>)> {
        let loaded = load::load(sets, settings, tokenizer, spec, cache)?;
        let sets = loaded.note.sets.clone();
        Ok((Self::over(loaded, settings, spec)?, sets))
    }

    /// The same rows in bins, if the settings ask for it.
    pub(super) fn pack(self, settings: &DataSettings) -> Result<Self> {
        match settings.packing.0 {
            None => Ok(self),
            Some(strategy) => self.packed(strategy, settings.max_length),
        }
    }

    /// The sequences of these numbers, in this order and as often as they are named.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub(super) fn pick(&self, sequences: &[u32]) -> Result<Self> {
        let mut picked =
            Self { sequences: Arc::new(self.sequences.pick(sequences)), ..self.clone() };
        let DataStats { dropped, truncated, .. } = self.stats;
        picked.stats = DataStats { dropped, truncated, ..DataStats::default() };
        for i in 0..picked.len() {
            let rows = picked.sequence(i)?;
            picked.stats.count(&rows);
        }
        Ok(picked)
    }

    /// A data set made elsewhere, such as in a test.
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        let mut stats = DataStats::default();
        rows.iter().for_each(|row| stats.count(std::slice::from_ref(row)));
        let store = RowStore::of(rows);
        let sequences = Sequences::single(pieces(&store));
        Self {
            store: Arc::new(store),
            sequences: Arc::new(sequences),
            verdicts: Arc::default(),
            mismatch: None,
            shares_prompts: false,
            stats,
            notes: Vec::new(),
        }
    }

    fn over(loaded: Loaded, settings: &DataSettings, spec: &ModelSpec) -> Result<Self> {
        let Loaded { store, note: Note { stats, notes, verdicts, .. } } = loaded;
        // Rows are numbered, and tokens of a row counted, in 32 bits.
        if u32::try_from(store.len()).is_err() {
            let rows = store.len();
            return Err(EngineError::input(format!(
                "{rows} rows, expected at most {}; set `max_samples`",
                u32::MAX
            )));
        }
        let rows = pieces(&store);
        let sequences = match settings.format {
            DataFormat::Preference => Sequences::pairs(rows),
            DataFormat::Kto => {
                let cut = |row: Piece| row.kept(settings.max_length, settings.truncation);
                Sequences::single(rows.into_iter().map(cut).collect())
            }
            _ => Sequences::single(rows),
        };
        let (store, sequences, verdicts) =
            (Arc::new(store), Arc::new(sequences), Arc::new(verdicts));
        let pairs = settings.format == DataFormat::Preference;
        // With LongRoPE a prompt turns by the length of its answer.
        let shares_prompts =
            pairs && !matches!(spec.rope_scaling, Some(RopeScaling::LongRope { .. }));
        Ok(Self { store, sequences, verdicts, mismatch: None, shares_prompts, stats, notes })
    }

    /// The same judged answers, each sequence joined by its prompt with the answer of the sequence before it among
    /// those `micro_batch` that lie together in the files, as TRL does; the first of them takes the last one's, and
    /// one that is left alone takes that of the sequence before it.
    #[must_use]
    pub fn mismatched(mut self, micro_batch: usize, settings: &DataSettings) -> Self {
        let DataSettings { max_length, truncation, .. } = *settings;
        self.mismatch = Some(Mismatch { group: micro_batch.max(1), max_length, truncation });
        self
    }

    /// Whether the answer of sequence `i` was wanted.
    #[must_use]
    pub fn desirable(&self, i: usize) -> bool {
        self.sequences
            .get(i)
            .first()
            .is_some_and(|piece| self.verdicts.get(piece.row as usize).copied().unwrap_or_default())
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
        self.sequences = Arc::new(Sequences::packed(bins));
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
        let mut rows: Vec<Row> =
            self.sequences.get(i).iter().map(|piece| self.read(*piece)).collect::<Result<_>>()?;
        if let Some(Mismatch { group, max_length, truncation }) = self.mismatch {
            let (own, other) = (self.whole(i)?, self.whole(partner(i, group, self.len()))?);
            let (prompt, answer) = (own.prompt(), other.prompt());
            let mut row = Row {
                input_ids: [&own.input_ids[..prompt], &other.input_ids[answer..]].concat(),
                labels: [&own.labels[..prompt], &other.labels[answer..]].concat(),
            };
            row.cut(max_length, truncation);
            rows.push(row);
        }
        Ok(rows)
    }

    /// Sequences end to end.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn micro_batch(&self, sequences: &[usize]) -> Result<MicroBatch> {
        let mut rows = Vec::new();
        for i in sequences {
            rows.extend(self.sequence(*i)?);
        }
        let rows: Vec<&Row> = rows.iter().collect();
        let batch =
            if self.shares_prompts { MicroBatch::of_pairs(&rows) } else { MicroBatch::of(&rows) };
        Ok(MicroBatch { sequences: sequences.to_vec(), ..batch })
    }

    /// Tokens that are computed for sequence `i` in a micro-batch.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn tokens_computed_of(&self, i: usize) -> Result<usize> {
        if self.shares_prompts {
            Ok(self.micro_batch(&[i])?.tokens_computed())
        } else {
            Ok(self.tokens_of(i))
        }
    }

    /// The first row of sequence `i`, uncut.
    fn whole(&self, i: usize) -> Result<Row> {
        let row = self.sequences.get(i)[0].row as usize;
        self.store.read(row, 0, self.store.tokens_of(row))
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
        hasher.update(&self.verdicts.iter().map(|wanted| u8::from(*wanted)).collect::<Vec<_>>());
        BlobHash(*hasher.finalize().as_bytes())
    }

    fn read(&self, piece: Piece) -> Result<Row> {
        self.store.read(piece.row as usize, piece.start as usize, piece.tokens as usize)
    }
}

/// Whose answer sequence `i` of `len` takes.
fn partner(i: usize, group: usize, len: usize) -> usize {
    let start = i / group * group;
    let end = (start + group).min(len);
    match i - start {
        0 if end - start > 1 => end - 1,
        0 => (i + len - 1) % len,
        _ => i - 1,
    }
}

fn pieces(store: &RowStore) -> Vec<Piece> {
    (0..store.len()).map(|row| Piece::whole(row as u32, store.tokens_of(row) as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::IGNORED;

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
    fn answers_change_places_within_a_micro_batch() {
        let of = |group, len| -> Vec<usize> { (0..len).map(|i| partner(i, group, len)).collect() };
        assert_eq!(of(4, 4), [3, 0, 1, 2]);
        assert_eq!(of(2, 5), [1, 0, 3, 2, 3]);
        assert_eq!(of(1, 3), [2, 0, 1]);
        assert_eq!(of(4, 1), [0]);
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
