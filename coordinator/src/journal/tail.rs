//! Reads a file of lines that still grows.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

/// Lines given at once.
const BATCH_LINES: usize = 512;

/// A reader that remembers where it stopped.
#[derive(Debug)]
pub(crate) struct Tail<T> {
    path: PathBuf,
    offset: u64,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Tail<T> {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, kind: PhantomData }
    }

    /// What came since the last call, up to a batch; empty when there is nothing new. A line that means nothing (torn,
    /// or a NaN that JSON cannot say) is skipped.
    pub(crate) fn next(&mut self) -> Vec<T> {
        let mut lines = Vec::new();
        let Ok(mut file) = File::open(&self.path) else { return lines };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return lines;
        }
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while lines.len() < BATCH_LINES {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(read) if line.last() == Some(&b'\n') => {
                    self.offset += read as u64;
                    lines.extend(serde_json::from_slice::<T>(&line));
                }
                _ => break,
            }
        }
        lines
    }
}
