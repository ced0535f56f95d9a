//! CSV: a line of column names, then a row per record; cells that hold lists are JSON.

use std::io::Read;
use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::{FileRow, Next, ROW_BYTES_MAX, metered, unreadable};
use crate::{EngineError, Result};

/// Columns whose cells are lists.
const LISTS: [&str; 7] = [
    "messages",
    "conversations",
    "tools",
    "input_ids",
    "labels",
    "attention_mask",
    "completion_mask",
];
/// Columns that hold messages where their cell looks like a list, and text otherwise.
const LISTS_OR_TEXT: [&str; 4] = ["prompt", "completion", "chosen", "rejected"];

/// What stands between the cells of a file of this name, if its name says CSV.
pub(super) fn delimiter(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}

pub(super) fn rows(
    path: &Path,
    reader: impl Read,
    delimiter: u8,
    take: &mut impl FnMut(FileRow) -> Result<Next>,
) -> Result<Next> {
    let (metered, left) = metered(reader);
    let mut csv = ReaderBuilder::new().delimiter(delimiter).from_reader(metered);
    let names = csv.headers().map_err(|e| fault(path, 1, e))?.clone();
    for (i, name) in names.iter().enumerate() {
        let twice = names.iter().take(i).any(|earlier| earlier == name);
        if name.trim().is_empty() || twice {
            let what = if twice { format!("`{name}` twice") } else { "one without a name".into() };
            return Err(EngineError::input(format!(
                "{}: line 1 names columns, and {what}",
                path.display()
            )));
        }
    }
    let mut record = StringRecord::new();
    loop {
        left.set(ROW_BYTES_MAX);
        let begun = csv.position().line();
        if !csv.read_record(&mut record).map_err(|e| fault(path, begun, e))? {
            return Ok(Next::Row);
        }
        let line = record.position().map_or(begun, csv::Position::line);
        let place = format!("{}: line {line}", path.display());
        let mut columns = Map::new();
        for (name, cell) in names.iter().zip(&record) {
            let value = cell_value(name, cell)
                .map_err(|why| EngineError::input(format!("{place}: column `{name}`: {why}")))?;
            columns.insert(name.to_owned(), value);
        }
        if take(FileRow { place, columns })? == Next::Enough {
            return Ok(Next::Enough);
        }
    }
}

fn cell_value(name: &str, cell: &str) -> Result<Value, String> {
    if cell.contains('\0') {
        return Err("a NUL byte; the file is damaged".into());
    }
    let trimmed = cell.trim();
    let looks_like_messages = trimmed.starts_with("[{") && trimmed.ends_with("}]");
    if LISTS.contains(&name) || (LISTS_OR_TEXT.contains(&name) && looks_like_messages) {
        return match trimmed {
            "" => Ok(Value::Null),
            json => serde_json::from_str(json)
                .map_err(|e| format!("{e}; expected a list, written as JSON")),
        };
    }
    if name == "label" {
        let truth = ["true", "1"].iter().any(|yes| trimmed.eq_ignore_ascii_case(yes));
        let falsehood = ["false", "0"].iter().any(|no| trimmed.eq_ignore_ascii_case(no));
        if truth || falsehood {
            return Ok(truth.into());
        }
    }
    Ok(cell.into())
}

fn fault(path: &Path, begun: u64, error: csv::Error) -> EngineError {
    let line = error.position().map_or(begun, csv::Position::line);
    let refuse =
        |why: String| EngineError::input(format!("{}: line {line}: {why}", path.display()));
    match error.into_kind() {
        ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::FileTooLarge => refuse(format!(
            "longer than {} MiB; is a quotation mark left open?",
            ROW_BYTES_MAX >> 20
        )),
        ErrorKind::Io(e) => unreadable(path, e),
        ErrorKind::Utf8 { err, .. } => {
            refuse(format!("cell {} is not UTF-8; save the file as UTF-8", err.field() + 1))
        }
        ErrorKind::UnequalLengths { expected_len, len, .. } => refuse(format!(
            "{len} cells, expected {expected_len} as in line 1; a cell with commas, quotation marks or line breaks \
             needs quotation marks around it"
        )),
        other => refuse(csv::Error::from(std::io::Error::other(format!("{other:?}"))).to_string()),
    }
}
