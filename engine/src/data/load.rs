//! From files to stored rows, a few hundred at a time.

use std::path::PathBuf;

use fleetune_shared::ModelSpec;
use fleetune_shared::recipe::{DataFormat, DataSettings, OverLength, TruncationMode};
use rayon::prelude::*;

use super::batch::Row;
use super::dataset::DataStats;
use super::encode::Encoder;
use super::format::{Context, Sample};
use super::rows::{self, FileRow, Next};
use super::store::{RowStore, RowWriter};
use super::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// Rows that are tokenised together.
const ROWS_AT_ONCE: usize = 512;

fn at(place: &str, why: impl std::fmt::Display) -> EngineError {
    EngineError::input(format!("{place}: {why}"))
}

/// Reads, renders and tokenises files.
pub(super) fn load(
    paths: &[PathBuf],
    settings: &DataSettings,
    tokenizer: Option<&Tokenizer>,
    spec: &ModelSpec,
) -> Result<(RowStore, DataStats, Vec<String>)> {
    let encoder = tokenizer.map(|t| Encoder::new(t, spec, settings)).transpose()?;
    let encoder = encoder.as_ref();
    let has_template = encoder.is_some_and(|e| e.template.is_some());
    let context = Context { settings, has_template, vocab_size: spec.vocab_size };
    let mut intake = Intake {
        settings,
        encoder,
        writer: RowWriter::new(None)?,
        stats: DataStats::default(),
        lost: Lost::default(),
    };
    let mut read = 0;
    let mut waiting = Vec::with_capacity(ROWS_AT_ONCE);
    for path in paths {
        let mut layout = settings.format;
        let next = rows::each(path, |FileRow { place, columns }| {
            let mut understood = || {
                if layout == DataFormat::Auto {
                    layout = context.detect(&columns)?;
                }
                context.sample(layout, &columns)
            };
            let sample = understood().map_err(|why| at(&place, why));
            let failed = sample.is_err();
            waiting.push((place, sample));
            read += 1;
            if failed || waiting.len() == ROWS_AT_ONCE {
                intake.encode(&mut waiting)?;
            }
            Ok(if settings.rows_max == Some(read) { Next::Enough } else { Next::Row })
        });
        // A complaint about an earlier row goes before what ended the reading.
        intake.encode(&mut waiting)?;
        if next? == Next::Enough {
            break;
        }
    }
    let Intake { writer, stats, lost, .. } = intake;
    if stats.rows == 0 {
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(EngineError::input(format!(
            "{}: no row is left to train on ({} read, {} dropped); raise `max_length` or give more data",
            names.join(", "),
            read,
            stats.dropped
        )));
    }
    Ok((writer.finish(None, &())?, stats, Vec::from_iter(lost.note())))
}

struct Intake<'a> {
    settings: &'a DataSettings,
    encoder: Option<&'a Encoder<'a>>,
    writer: RowWriter,
    stats: DataStats,
    lost: Lost,
}

/// Assistant turns that are not learned because the template rewrites them.
#[derive(Debug, Default)]
struct Lost {
    turns: u64,
    rows: u64,
    first: Option<String>,
}

impl Lost {
    fn count(&mut self, place: &str, messages: &[usize]) {
        let Some(message) = messages.first() else { return };
        self.turns += messages.len() as u64;
        self.rows += 1;
        self.first.get_or_insert_with(|| format!("{place}, message {message}"));
    }

    fn note(self) -> Option<String> {
        let Self { turns, rows, first } = self;
        first.map(|first| {
            format!(
                "{turns} assistant turns of {rows} rows are not learned, since the chat template rewrites them once \
                 later messages follow (first: {first}); a template with {{% generation %}} blocks learns them"
            )
        })
    }
}

impl Intake<'_> {
    /// Tokenises what waits, on all cores, and takes it in order.
    fn encode(&mut self, waiting: &mut Vec<(String, Result<Sample>)>) -> Result<()> {
        let encoder = self.encoder;
        let rows: Vec<(String, Result<(Row, Vec<usize>)>)> = waiting
            .par_drain(..)
            .map(|(place, sample)| {
                let row = match (sample, encoder) {
                    (Err(error), _) => Err(error),
                    (Ok(Sample::Tokens(row)), _) => Ok((row, Vec::new())),
                    (Ok(sample), Some(encoder)) => encoder.row(sample).map_err(|e| at(&place, e)),
                    (Ok(_), None) => {
                        Err(at(&place, "text needs a tokenizer, and the model has none"))
                    }
                };
                (place, row)
            })
            .collect();
        for (place, row) in rows {
            let (row, lost) = row?;
            if let Some(row) = self.admit(row).map_err(|why| at(&place, why))? {
                self.lost.count(&place, &lost);
                self.stats.count(&row);
                self.writer.push(&row)?;
            }
        }
        Ok(())
    }

    /// Keeps, cuts, drops or refuses a row.
    fn admit(&mut self, mut row: Row) -> Result<Option<Row>, String> {
        if row.supervised() == 0 {
            return Err("nothing to learn: no token carries a label; \
                        leave the row out, or look at it with `fleetune train --preview`"
                .into());
        }
        let length = row.input_ids.len();
        let max_length = self.settings.max_length;
        if length <= max_length || self.settings.packing.splits() {
            return Ok(Some(row));
        }
        match self.settings.over_length {
            OverLength::Error => Err(format!(
                "{length} tokens, longer than `max_length` {max_length}; raise `max_length`, or choose \
                 `over_length: truncate` or `drop`"
            )),
            OverLength::Drop => {
                self.stats.dropped += 1;
                Ok(None)
            }
            OverLength::Truncate => {
                if self.settings.truncation == TruncationMode::KeepEnd {
                    row.input_ids.drain(..length - max_length);
                    row.labels.drain(..length - max_length);
                }
                row.input_ids.truncate(max_length);
                row.labels.truncate(max_length);
                if row.supervised() == 0 {
                    self.stats.dropped += 1;
                    return Ok(None);
                }
                self.stats.truncated += 1;
                Ok(Some(row))
            }
        }
    }
}
