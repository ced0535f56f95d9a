//! A data set in memory: rows of tokens, and what became of the rows that did not fit.

use std::path::PathBuf;

use fleetune_shared::ModelSpec;
use fleetune_shared::recipe::{DataFormat, DataSettings, OverLength};
use rayon::prelude::*;

use super::Row;
use super::encode::Encoder;
use super::format::{self, Sample};
use super::rows::{self, FileRow, Next};
use super::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// Rows that are tokenised together.
const ROWS_AT_ONCE: usize = 512;

fn at(place: &str, why: impl std::fmt::Display) -> EngineError {
    EngineError::input(format!("{place}: {why}"))
}

/// What the files held and what became of it; goes into `report.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// Rows ready for training, at least one.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// In file order.
    pub rows: Vec<Row>,
    /// Counts over them.
    pub stats: DataStats,
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
        let encoder = tokenizer.map(|t| Encoder::new(t, spec, settings)).transpose()?;
        let encoder = encoder.as_ref();
        let has_template = encoder.is_some_and(|e| e.template.is_some());
        let mut dataset = Self::default();
        let mut read = 0;
        let mut waiting = Vec::with_capacity(ROWS_AT_ONCE);
        for path in paths {
            let mut layout = settings.format;
            let next = rows::each(path, |FileRow { place, columns }| {
                let mut understood = || {
                    if layout == DataFormat::Auto {
                        layout = format::detect(&columns)?;
                    }
                    format::sample(layout, &columns, has_template, spec.vocab_size)
                };
                let sample = understood().map_err(|why| at(&place, why));
                let failed = sample.is_err();
                waiting.push((place, sample));
                read += 1;
                if failed || waiting.len() == ROWS_AT_ONCE {
                    dataset.encode(&mut waiting, encoder, settings)?;
                }
                Ok(if settings.rows_max == Some(read) { Next::Enough } else { Next::Row })
            });
            // A complaint about an earlier row goes before what ended the reading.
            dataset.encode(&mut waiting, encoder, settings)?;
            if next? == Next::Enough {
                break;
            }
        }
        if dataset.rows.is_empty() {
            let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(EngineError::input(format!(
                "{}: no row is left to train on ({} read, {} dropped); raise `max_length` or give more data",
                names.join(", "),
                read,
                dataset.stats.dropped
            )));
        }
        Ok(dataset)
    }

    /// Tokenises what waits, on all cores, and takes it in order.
    fn encode(
        &mut self,
        waiting: &mut Vec<(String, Result<Sample>)>,
        encoder: Option<&Encoder<'_>>,
        settings: &DataSettings,
    ) -> Result<()> {
        let rows: Vec<(String, Result<Row>)> = waiting
            .par_drain(..)
            .map(|(place, sample)| {
                let row = match (sample, encoder) {
                    (Err(error), _) => Err(error),
                    (Ok(Sample::Tokens(row)), _) => Ok(row),
                    (Ok(sample), Some(encoder)) => encoder.row(sample).map_err(|e| at(&place, e)),
                    (Ok(_), None) => {
                        Err(at(&place, "text needs a tokenizer, and the model has none"))
                    }
                };
                (place, row)
            })
            .collect();
        for (place, row) in rows {
            self.admit(row?, settings).map_err(|why| at(&place, why))?;
        }
        Ok(())
    }

    /// A data set made elsewhere, such as in a test.
    #[must_use]
    pub fn of(rows: Vec<Row>) -> Self {
        let mut dataset = Self::default();
        for row in rows {
            dataset.push(row);
        }
        dataset
    }

    /// Keeps, cuts, drops or refuses a row.
    fn admit(&mut self, mut row: Row, settings: &DataSettings) -> Result<(), String> {
        if row.supervised() == 0 {
            return Err("nothing to learn: no token carries a label; \
                        leave the row out, or look at it with `fleetune train --preview`"
                .into());
        }
        let length = row.input_ids.len();
        let max_length = settings.max_length;
        if length > max_length {
            match settings.over_length {
                OverLength::Error => {
                    return Err(format!(
                        "{length} tokens, longer than `max_length` {max_length}; raise `max_length`, or choose \
                         `over_length: truncate` or `drop`"
                    ));
                }
                OverLength::Drop => {
                    self.stats.dropped += 1;
                    return Ok(());
                }
                OverLength::Truncate => {
                    row.input_ids.truncate(max_length);
                    row.labels.truncate(max_length);
                    if row.supervised() == 0 {
                        self.stats.dropped += 1;
                        return Ok(());
                    }
                    self.stats.truncated += 1;
                }
            }
        }
        self.push(row);
        Ok(())
    }

    fn push(&mut self, row: Row) {
        self.stats.rows += 1;
        self.stats.tokens += row.input_ids.len() as u64;
        self.stats.supervised += row.supervised() as u64;
        self.stats.longest = self.stats.longest.max(row.input_ids.len());
        self.rows.push(row);
    }
}
