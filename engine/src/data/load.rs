//! From files to stored rows, a few hundred at a time.

use std::path::{Path, PathBuf};

use fleetune_shared::ModelSpec;
use fleetune_shared::recipe::{DataFormat, DataSettings, OverLength};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::batch::Row;
use super::cache;
use super::dataset::DataStats;
use super::encode::Encoder;
use super::format::{Context, Line, Sample};
use super::rows::{self, FileRow, Next};
use super::store::{RowStore, RowWriter};
use super::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// Rows that are tokenised together, and what their text may come to.
const ROWS_AT_ONCE: usize = 512;
const BYTES_AT_ONCE: usize = 32 << 20;

/// What files gave.
pub(super) struct Loaded {
    /// Rows, one after the other; a pair is two of them.
    pub(super) store: RowStore,
    pub(super) note: Note,
}

/// What is remembered of the files beside their rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) stats: DataStats,
    /// What the user should know.
    pub(super) notes: Vec<String>,
    /// Sequences of each set.
    pub(super) sets: Vec<u32>,
    /// Which answers were wanted, where each row is one that was judged.
    pub(super) verdicts: Vec<bool>,
}

fn at(place: &str, why: impl std::fmt::Display) -> EngineError {
    EngineError::input(format!("{place}: {why}"))
}

/// Reads, renders and tokenises the files of all sets, or finds in the folder `cache` what became of them before.
pub(super) fn load(
    sets: &[Vec<PathBuf>],
    settings: &DataSettings,
    tokenizer: Option<&Tokenizer>,
    spec: &ModelSpec,
    cache: Option<&Path>,
) -> Result<Loaded> {
    let Some(folder) = cache else {
        return tokenise(sets, settings, tokenizer, spec, None);
    };
    let key = cache::key(sets, settings, tokenizer, spec)?;
    let path = folder.join(key.to_string());
    if let Some((store, note)) = RowStore::open(&path) {
        cache::touch(&path);
        return Ok(Loaded { store, note });
    }
    let loaded = tokenise(sets, settings, tokenizer, spec, Some(&path))?;
    if cache::key(sets, settings, tokenizer, spec)? != key {
        let _ = std::fs::remove_file(&path);
        return Err(EngineError::input("the data changed while it was read; start again"));
    }
    cache::trim(folder, &path);
    Ok(loaded)
}

fn tokenise(
    sets: &[Vec<PathBuf>],
    settings: &DataSettings,
    tokenizer: Option<&Tokenizer>,
    spec: &ModelSpec,
    kept_as: Option<&Path>,
) -> Result<Loaded> {
    let encoder = tokenizer.map(|t| Encoder::new(t, spec, settings)).transpose()?;
    let encoder = encoder.as_ref();
    let has_template = encoder.is_some_and(|e| e.template.is_some());
    let context = Context { settings, has_template, vocab_size: spec.vocab_size };
    let mut intake = Intake {
        settings,
        encoder,
        writer: RowWriter::new(kept_as.and_then(Path::parent))?,
        stats: DataStats::default(),
        lost: Lost::default(),
        verdicts: Vec::new(),
    };
    let mut read = 0;
    let mut waiting = Vec::with_capacity(ROWS_AT_ONCE);
    let mut bytes_waiting = 0;
    let mut rows_of_sets = vec![0; sets.len()];
    let files =
        sets.iter().enumerate().flat_map(|(set, paths)| paths.iter().map(move |p| (set, p)));
    for (set, path) in files {
        let before = intake.stats.rows;
        let mut layout = settings.format;
        let next = rows::each(path, |FileRow { place, columns }| {
            let mut understood = || {
                if layout == DataFormat::Auto {
                    layout = context.detect(&columns)?;
                }
                context.line(layout, &columns)
            };
            bytes_waiting += columns.values().map(bytes_of).sum::<usize>();
            let line = understood().map_err(|why| at(&place, why));
            let failed = line.is_err();
            waiting.push((place, line));
            read += 1;
            if failed || waiting.len() == ROWS_AT_ONCE || bytes_waiting > BYTES_AT_ONCE {
                intake.encode(&mut waiting)?;
                bytes_waiting = 0;
            }
            Ok(if settings.rows_max == Some(read) { Next::Enough } else { Next::Row })
        });
        // A complaint about an earlier row goes before what ended the reading.
        intake.encode(&mut waiting)?;
        rows_of_sets[set] += (intake.stats.rows - before) as u32;
        if next? == Next::Enough {
            break;
        }
    }
    let Intake { writer, stats, lost, verdicts, .. } = intake;
    if stats.rows == 0 {
        let names: Vec<_> = sets.iter().flatten().map(|path| path.display().to_string()).collect();
        return Err(EngineError::input(format!(
            "{}: no row is left to train on ({} read, {} dropped); raise `max_length` or give more data",
            names.join(", "),
            read,
            stats.dropped
        )));
    }
    let notes = Vec::from_iter(lost.note());
    let note = Note { stats, notes, sets: rows_of_sets, verdicts };
    Ok(Loaded { store: writer.finish(kept_as, &note)?, note })
}

/// About the memory a value takes.
fn bytes_of(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(bytes_of).sum(),
            Value::Object(object) => {
                object.iter().map(|(key, value)| key.len() + bytes_of(value)).sum()
            }
            _ => 0,
        }
}

struct Intake<'a> {
    settings: &'a DataSettings,
    encoder: Option<&'a Encoder<'a>>,
    writer: RowWriter,
    stats: DataStats,
    lost: Lost,
    verdicts: Vec<bool>,
}

/// A sample in tokens.
#[derive(Default)]
struct Tokenised {
    /// One row; two of a pair.
    rows: Vec<Row>,
    /// Messages, counted from 1, that the template rewrites.
    lost: Vec<usize>,
    verdict: Option<bool>,
}

/// Text needs an `encoder`.
fn tokenised(line: Line, encoder: Option<&Encoder<'_>>) -> Result<Tokenised> {
    let answer = |sample: Sample| -> Result<Row> {
        let (mut row, _) = encoded(sample, encoder)?;
        if row.supervised() == 0 {
            return Err(EngineError::input(
                "an answer has no token that is learned; look at it with `fleetune train --preview`",
            ));
        }
        row.learn_answer();
        Ok(row)
    };
    Ok(match line {
        Line::One(sample) => {
            let (row, lost) = encoded(sample, encoder)?;
            Tokenised { rows: vec![row], lost, verdict: None }
        }
        Line::Pair(pair) => {
            let [chosen, rejected] = *pair;
            Tokenised { rows: vec![answer(chosen)?, answer(rejected)?], ..Tokenised::default() }
        }
        Line::Judged(sample, verdict) => Tokenised {
            rows: vec![answer(sample)?],
            verdict: Some(verdict),
            ..Tokenised::default()
        },
    })
}

fn encoded(sample: Sample, encoder: Option<&Encoder<'_>>) -> Result<(Row, Vec<usize>)> {
    match (sample, encoder) {
        (Sample::Tokens(row), _) => Ok((row, Vec::new())),
        (sample, Some(encoder)) => encoder.row(sample),
        (_, None) => Err(EngineError::input("text needs a tokenizer, and the model has none")),
    }
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
    fn encode(&mut self, waiting: &mut Vec<(String, Result<Line>)>) -> Result<()> {
        let encoder = self.encoder;
        let rows: Vec<(String, Result<Tokenised>)> = waiting
            .par_drain(..)
            .map(|(place, line)| {
                let tokenised =
                    line.and_then(|line| tokenised(line, encoder).map_err(|why| at(&place, why)));
                (place, tokenised)
            })
            .collect();
        for (place, tokenised) in rows {
            let Tokenised { rows, lost, verdict } = tokenised?;
            if let Some(rows) = self.admit(rows).map_err(|why| at(&place, why))? {
                self.lost.count(&place, &lost);
                self.stats.count(&rows);
                self.verdicts.extend(verdict);
                rows.iter().try_for_each(|row| self.writer.push(row))?;
            }
        }
        Ok(())
    }

    /// Keeps, cuts, drops or refuses what a line of the file became.
    fn admit(&mut self, mut rows: Vec<Row>) -> Result<Option<Vec<Row>>, String> {
        if rows.iter().any(|row| row.supervised() == 0) {
            return Err("nothing to learn: no token carries a label; \
                        leave the row out, or look at it with `fleetune train --preview`"
                .into());
        }
        let length = rows.iter().map(|row| row.input_ids.len()).max().unwrap_or_default();
        let max_length = self.settings.max_length;
        if length <= max_length || self.settings.packing.splits() {
            return Ok(Some(rows));
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
                let whole = rows.clone();
                rows.iter_mut().for_each(|row| row.cut(max_length, self.settings.truncation));
                let same = rows.len() == 2 && rows[0] == rows[1];
                if same || rows.iter().any(|row| row.supervised() == 0) {
                    self.stats.dropped += 1;
                    return Ok(None);
                }
                self.stats.truncated += 1;
                // A judged answer is cut where it is used: behind another prompt more of it may fit.
                let judged = self.settings.format == DataFormat::Kto;
                Ok(Some(if judged { whole } else { rows }))
            }
        }
    }
}
