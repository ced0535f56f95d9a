//! JSON and JSONL: an array of objects, or one object per line.

use std::cell::Cell;
use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{FileRow, Next, ROW_BYTES_MAX, metered, unreadable};
use crate::data::conversation::brief;
use crate::{EngineError, Result};

pub(super) fn lines(
    path: &Path,
    mut reader: impl BufRead,
    first_line: u64,
    take: &mut impl FnMut(FileRow) -> Result<Next>,
) -> Result<Next> {
    let mut bytes = Vec::new();
    for number in first_line.. {
        bytes.clear();
        let mut bounded = reader.by_ref().take(ROW_BYTES_MAX + 1);
        bounded.read_until(b'\n', &mut bytes).map_err(|e| unreadable(path, e))?;
        if bytes.is_empty() {
            break;
        }
        let place = format!("{}: line {number}", path.display());
        let refuse = |why: String| EngineError::input(format!("{place}: {why}"));
        if bytes.len() as u64 > ROW_BYTES_MAX {
            let limit = ROW_BYTES_MAX >> 20;
            return Err(refuse(format!(
                "longer than {limit} MiB; is it one JSON object per line?"
            )));
        }
        if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
            return Err(refuse(format!("column {}: a NUL byte; the file is damaged", at + 1)));
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            refuse(format!("column {}: not UTF-8; save the file as UTF-8", e.valid_up_to() + 1))
        })?;
        if text.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(text.trim_end()).map_err(|e| {
            let hint = match (e.is_eof(), text.ends_with('\n')) {
                (true, false) => "; the last line is cut off, is the file complete?",
                (true, true) => "; expected a whole JSON object on every line",
                _ => "",
            };
            refuse(format!("column {}: {}{hint}", e.column(), reason(&e)))
        })?;
        let columns = object(value).map_err(refuse)?;
        if take(FileRow { place, columns })? == Next::Enough {
            return Ok(Next::Enough);
        }
    }
    Ok(Next::Row)
}

fn object(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(columns) => Ok(columns),
        other => Err(format!("found {}, expected a JSON object", brief(&other))),
    }
}

/// serde_json's message without its ` at line 1 column 7`.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.clone(), |at| text[..at].to_owned())
}

pub(super) fn array(
    path: &Path,
    reader: impl BufRead,
    take: &mut impl FnMut(FileRow) -> Result<Next>,
) -> Result<Next> {
    let (metered, left) = metered(reader);
    let mut json = serde_json::Deserializer::from_reader(metered);
    let mut outcome = Outcome { rows: 0, stopped: None };
    let elements = Elements { path, take, left: &left, outcome: &mut outcome };
    let parsed = elements.deserialize(&mut json).and_then(|()| json.end());
    match (outcome.stopped, parsed) {
        (Some(stopped), _) => stopped,
        (None, Ok(())) => Ok(Next::Row),
        (None, Err(e)) if e.io_error_kind() == Some(std::io::ErrorKind::FileTooLarge) => {
            Err(EngineError::input(format!(
                "{}: row {}: longer than {} MiB",
                path.display(),
                outcome.rows + 1,
                ROW_BYTES_MAX >> 20
            )))
        }
        (None, Err(e)) => Err(EngineError::input(format!(
            "{}: row {} (line {} column {}): {}{}",
            path.display(),
            outcome.rows + 1,
            e.line(),
            e.column(),
            reason(&e),
            if e.is_eof() { "; the array is cut off, is the file complete?" } else { "" },
        ))),
    }
}

struct Outcome {
    rows: u64,
    /// The caller's answer where it ended the reading.
    stopped: Option<Result<Next>>,
}

/// An array whose elements are handed on as they are parsed.
struct Elements<'a, F> {
    path: &'a Path,
    take: &'a mut F,
    left: &'a Cell<u64>,
    outcome: &'a mut Outcome,
}

impl<'de, F: FnMut(FileRow) -> Result<Next>> DeserializeSeed<'de> for Elements<'_, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(FileRow) -> Result<Next>> Visitor<'de> for Elements<'_, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element::<Value>()? {
            self.left.set(ROW_BYTES_MAX);
            let place = format!("{}: row {}", self.path.display(), self.outcome.rows + 1);
            let answer = match object(value) {
                Ok(columns) => (self.take)(FileRow { place, columns }),
                Err(why) => Err(EngineError::input(format!("{place}: {why}"))),
            };
            match answer {
                Ok(Next::Row) => self.outcome.rows += 1,
                end => {
                    self.outcome.stopped = Some(end);
                    return Err(A::Error::custom("stopped"));
                }
            }
        }
        Ok(())
    }
}
