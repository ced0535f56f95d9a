//! Data files, row by row: no file is ever held in memory whole, and every complaint names file and line.
//!
//! ```text
//!   file ─▶ unpack (gzip, zstd) ─▶ JSON array │ JSON lines │ CSV ─▶ FileRow
//!        ────────────────────────▶ Parquet ────────────────────▶
//! ```
//!
//! What a file is shows in its first bytes; only CSV is known by its name.

mod csv;
mod json;
mod parquet;
mod unpack;

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::file;
use crate::{EngineError, Result};

/// Longest line, or element of an array, that is read. Parsed, a row can take a hundred times its text.
const ROW_BYTES_MAX: u64 = 16 << 20;

/// One row and where it stands, such as `rows.jsonl: line 3`.
pub(super) struct FileRow {
    pub(super) place: String,
    pub(super) columns: Map<String, Value>,
}

/// Whether the caller wants another row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Row,
    Enough,
}

/// Hands every row of a file to `take`, until that has had enough.
pub(super) fn each(path: &Path, mut take: impl FnMut(FileRow) -> Result<Next>) -> Result<Next> {
    let refuse = |why: &str| Err(EngineError::input(format!("{}: {why}", path.display())));
    let (file, bytes) = file::open(path)?;
    let mut packed = BufReader::with_capacity(1 << 16, file);
    if head(&mut packed, path)?.starts_with(b"PAR1") {
        return parquet::rows(path, packed.into_inner(), &mut take);
    }
    let mut reader = BufReader::with_capacity(1 << 16, unpack::reader(packed, path)?);
    match head(&mut reader, path)? {
        [] if bytes == 0 => {
            return refuse("the file is empty, expected rows of JSON, CSV or Parquet");
        }
        [] => return refuse("the file unpacks to nothing, expected rows"),
        [b'P', b'K', 3, 4, ..] | [b'B', b'Z', b'h', ..] | [0xFD, b'7', b'z', b'X', b'Z', ..] => {
            return refuse(
                "the file is packed in a way that is not read; unpack it, or use gzip or zstd",
            );
        }
        [0x1F, 0x8B, ..] | [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            return refuse("the file is packed twice; unpack it once");
        }
        [b'P', b'A', b'R', b'1', ..] => {
            return refuse(
                "a packed Parquet file; unpack it, since Parquet is packed inside already",
            );
        }
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => {
            return refuse("the file is UTF-16; save it as UTF-8");
        }
        [0xEF, 0xBB, 0xBF, ..] => reader.consume(3),
        _ => {}
    }
    if let Some(delimiter) = csv::delimiter(path) {
        return csv::rows(path, reader, delimiter, &mut take);
    }
    // Blank lines before the first row are counted, so that later lines keep their numbers.
    let mut line = 1;
    let first = loop {
        match head(&mut reader, path)?.first().copied() {
            Some(c) if c.is_ascii_whitespace() => {
                line += u64::from(c == b'\n');
                reader.consume(1);
            }
            other => break other,
        }
    };
    match first {
        None => refuse("the file holds only blanks, expected rows of JSON"),
        Some(b'[') => json::array(path, reader, &mut take),
        Some(b'{') => json::lines(path, reader, line, &mut take),
        Some(_) => Err(EngineError::input(format!(
            "{}: line {line} begins with no `{{` or `[`; expected one JSON object per line, an array of objects, or a \
             file that is named .csv or .tsv",
            path.display()
        ))),
    }
}

/// What comes next in the file, without taking it.
fn head<'r>(reader: &'r mut impl BufRead, path: &Path) -> Result<&'r [u8]> {
    reader.fill_buf().map_err(|e| unreadable(path, e))
}

/// Why a file, or what it unpacks to, cannot be read.
fn unreadable(path: &Path, error: std::io::Error) -> EngineError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => EngineError::input(format!(
            "{}: the packed data is cut off; is the file complete?",
            path.display()
        )),
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
            EngineError::input(format!("{}: the packed data is damaged: {error}", path.display()))
        }
        std::io::ErrorKind::QuotaExceeded => {
            EngineError::input(format!("{}: {error}", path.display()))
        }
        _ => EngineError::io(path, error),
    }
}

/// Counts down the bytes a row may take; refilled at each row.
struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(into)?;
        match self.left.get().checked_sub(count as u64) {
            Some(left) => self.left.set(left),
            None => return Err(std::io::ErrorKind::FileTooLarge.into()),
        }
        Ok(count)
    }
}

/// A reader that fails with `FileTooLarge` once a row is too long, and what it counts down.
fn metered<R: Read>(inner: R) -> (BufReader<Metered<R>>, Rc<Cell<u64>>) {
    let left = Rc::new(Cell::new(ROW_BYTES_MAX));
    (BufReader::with_capacity(1 << 16, Metered { inner, left: left.clone() }), left)
}
