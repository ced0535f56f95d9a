//! A data set in memory: rows of tokens, and what became of the rows that did not fit.

use super::Row;

/// What the files held and what became of it; goes into `report.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataStats {
    /// Rows kept.
    pub rows: u64,
    /// Rows left out because they were longer than `max_length`.
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

/// Rows ready for training, at least one.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// In file order.
    pub rows: Vec<Row>,
    /// Counts over them.
    pub stats: DataStats,
}

impl Dataset {
    /// A data set made elsewhere, such as in a test.
    #[must_use]
    pub fn of(rows: Vec<Row>) -> Self {
        let mut dataset = Self::default();
        for row in rows {
            dataset.push(row);
        }
        dataset
    }

    fn push(&mut self, row: Row) {
        self.stats.rows += 1;
        self.stats.tokens += row.input_ids.len() as u64;
        self.stats.supervised += row.supervised() as u64;
        self.stats.longest = self.stats.longest.max(row.input_ids.len());
        self.rows.push(row);
    }
}
