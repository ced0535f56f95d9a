//! Tokenised rows in a file, read one by one: however large a data set is, only the places of its rows are held in
//! memory.
//!
//! ```text
//!   tokens of all rows, 4 bytes each │ where each row ends, 8 bytes each │ Tail as JSON │ its hash, its length, magic
//! ```
//!
//! A token is its id, with the highest bit set where it is learned; all numbers are little-endian.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fleetune_shared::BlobHash;
use serde::{Deserialize, Serialize};

use super::batch::{IGNORED, Row};
use crate::{EngineError, Result};

const LEARNED: u32 = 1 << 31;
const TOKEN_BYTES: u64 = 4;
const MAGIC: &[u8; 8] = b"fltokens";
const FOOTER_BYTES: u64 = 32 + 8 + 8;
/// The tail of a sound file is far smaller.
const TAIL_BYTES_MAX: u64 = 256 << 20;

fn encoded(row: &Row) -> impl Iterator<Item = u8> {
    let token = |(id, label): (&u32, &i64)| if *label == IGNORED { *id } else { *id | LEARNED };
    row.input_ids.iter().zip(&row.labels).map(token).flat_map(u32::to_le_bytes)
}

/// Rows that can be read by their number.
#[derive(Debug)]
pub(super) struct RowStore {
    tokens: Tokens,
    /// Where each row ends, in tokens.
    ends: Vec<u64>,
    hash: BlobHash,
}

#[derive(Debug)]
enum Tokens {
    Memory(Vec<u8>),
    File { file: File, path: PathBuf },
}

impl RowStore {
    /// Rows made in memory, such as a test's.
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(rows.len());
        for row in rows {
            bytes.extend(encoded(row));
            ends.push(bytes.len() as u64 / TOKEN_BYTES);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let hash = sealed(hasher, &ends);
        Self { tokens: Tokens::Memory(bytes), ends, hash }
    }

    /// Opens a file that [`RowWriter::finish`] left, whole and unchanged, and gives back what was noted in it.
    /// `None` where there is no such file, or what is there is damaged.
    pub(super) fn open<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<(Self, T)> {
        let file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut footer = [0; FOOTER_BYTES as usize];
        file.read_exact_at(&mut footer, length.checked_sub(FOOTER_BYTES)?).ok()?;
        let (tail_hash, rest) = footer.split_at(32);
        let (tail_length, magic) = rest.split_at(8);
        let tail_length = u64::from_le_bytes(tail_length.try_into().ok()?);
        if magic != MAGIC || tail_length > TAIL_BYTES_MAX {
            return None;
        }
        let tail_at = length.checked_sub(FOOTER_BYTES + tail_length)?;
        let mut tail = vec![0; tail_length as usize];
        file.read_exact_at(&mut tail, tail_at).ok()?;
        if blake3::hash(&tail).as_bytes() != tail_hash {
            return None;
        }
        let tail: Tail<T> = serde_json::from_slice(&tail).ok()?;
        let ends_at = tail_at.checked_sub(tail.rows.checked_mul(8)?)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader((&file).take(ends_at)).ok()?;
        let mut bytes = vec![0; (tail_at - ends_at) as usize];
        file.read_exact_at(&mut bytes, ends_at).ok()?;
        let ends: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|end| u64::from_le_bytes(end.try_into().unwrap_or_default()))
            .collect();
        let hash = sealed(hasher, &ends);
        let sound = hash == tail.hash && ends.last().map_or(0, |end| end * TOKEN_BYTES) == ends_at;
        let tokens = Tokens::File { file, path: path.to_owned() };
        sound.then_some((Self { tokens, ends, hash }, tail.note))
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells these rows, in this order, from others.
    pub(super) fn hash(&self) -> BlobHash {
        self.hash
    }

    /// Where row `row` begins and ends, in tokens of the store.
    fn place(&self, row: usize) -> (u64, u64) {
        (row.checked_sub(1).map_or(0, |before| self.ends[before]), self.ends[row])
    }

    pub(super) fn tokens_of(&self, row: usize) -> usize {
        let (start, end) = self.place(row);
        (end - start) as usize
    }

    /// `tokens` tokens of a row from its token `start` on.
    pub(super) fn read(&self, row: usize, start: usize, tokens: usize) -> Result<Row> {
        let from = (self.place(row).0 + start as u64) * TOKEN_BYTES;
        let mut bytes = vec![0; tokens * TOKEN_BYTES as usize];
        match &self.tokens {
            Tokens::Memory(all) => {
                let until = from as usize + bytes.len();
                bytes.copy_from_slice(&all[from as usize..until]);
            }
            Tokens::File { file, path } => {
                file.read_exact_at(&mut bytes, from).map_err(|e| EngineError::io(path, e))?;
            }
        }
        let mut out =
            Row { input_ids: Vec::with_capacity(tokens), labels: Vec::with_capacity(tokens) };
        for token in bytes.chunks_exact(TOKEN_BYTES as usize) {
            let token = u32::from_le_bytes([token[0], token[1], token[2], token[3]]);
            let id = token & !LEARNED;
            out.input_ids.push(id);
            out.labels.push(if token & LEARNED == 0 { IGNORED } else { i64::from(id) });
        }
        Ok(out)
    }
}

fn sealed(mut hasher: blake3::Hasher, ends: &[u64]) -> BlobHash {
    for end in ends {
        hasher.update(&end.to_le_bytes());
    }
    BlobHash(*hasher.finalize().as_bytes())
}

#[derive(Serialize, Deserialize)]
struct Tail<T> {
    rows: u64,
    hash: BlobHash,
    note: T,
}

/// Writes a store, row after row.
#[derive(Debug)]
pub(super) struct RowWriter {
    file: BufWriter<tempfile::NamedTempFile>,
    ends: Vec<u64>,
    hasher: blake3::Hasher,
}

impl RowWriter {
    /// A store that will stand in `folder`, or is gone with its last reader.
    pub(super) fn new(folder: Option<&Path>) -> Result<Self> {
        let made = match folder {
            Some(folder) => std::fs::create_dir_all(folder)
                .and_then(|()| tempfile::Builder::new().prefix(".tokens-").tempfile_in(folder)),
            None => tempfile::NamedTempFile::new(),
        };
        let place = || folder.map_or_else(std::env::temp_dir, Path::to_owned);
        let file = made.map_err(|e| EngineError::io(&place(), e))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { file, ends: Vec::new(), hasher: blake3::Hasher::new() })
    }

    pub(super) fn push(&mut self, row: &Row) -> Result<()> {
        let bytes: Vec<u8> = encoded(row).collect();
        self.hasher.update(&bytes);
        self.file.write_all(&bytes).map_err(|e| self.fault(e))?;
        let end = self.ends.last().copied().unwrap_or_default() + row.input_ids.len() as u64;
        self.ends.push(end);
        Ok(())
    }

    /// The finished store. Under `name` it stays for [`RowStore::open`], with a note for whoever opens it; another
    /// that stands there already was made from the same and is replaced.
    pub(super) fn finish(mut self, name: Option<&Path>, note: &impl Serialize) -> Result<RowStore> {
        let hash = sealed(self.hasher.clone(), &self.ends);
        let tail = Tail { rows: self.ends.len() as u64, hash, note };
        let place = self.file.get_ref().path().to_owned();
        let mut write = || -> io::Result<()> {
            let tail = serde_json::to_vec(&tail)?;
            for end in &self.ends {
                self.file.write_all(&end.to_le_bytes())?;
            }
            self.file.write_all(&tail)?;
            self.file.write_all(blake3::hash(&tail).as_bytes())?;
            self.file.write_all(&(tail.len() as u64).to_le_bytes())?;
            self.file.write_all(MAGIC)?;
            self.file.flush()
        };
        write().map_err(|e| EngineError::io(&place, e))?;
        let named = self.file.into_inner().map_err(|e| EngineError::io(&place, e.into_error()))?;
        let (file, path) = match name {
            None => (named.into_file(), place),
            Some(name) => {
                let kept = named.persist(name).map_err(|e| EngineError::io(name, e.error))?;
                (kept, name.to_owned())
            }
        };
        Ok(RowStore { tokens: Tokens::File { file, path }, ends: self.ends, hash })
    }

    fn fault(&self, error: io::Error) -> EngineError {
        EngineError::io(self.file.get_ref().path(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        vec![
            Row { input_ids: vec![1, 2, 3], labels: vec![IGNORED, 2, 3] },
            Row { input_ids: vec![7], labels: vec![7] },
            Row { input_ids: vec![0, 1 << 30], labels: vec![0, IGNORED] },
        ]
    }

    fn written(path: &Path) -> RowStore {
        let mut writer = RowWriter::new(path.parent()).unwrap();
        rows().iter().for_each(|row| writer.push(row).unwrap());
        writer.finish(Some(path), &"note").unwrap()
    }

    fn all(store: &RowStore) -> Vec<Row> {
        (0..store.len()).map(|row| store.read(row, 0, store.tokens_of(row)).unwrap()).collect()
    }

    #[test]
    fn rows_come_back_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/tokens");
        let (memory, file) = (RowStore::of(&rows()), written(&path));
        let (opened, note) = RowStore::open::<String>(&path).unwrap();
        assert_eq!(note, "note");
        for store in [&memory, &file, &opened] {
            assert_eq!(all(store), rows());
            assert_eq!(store.hash(), memory.hash());
        }
        let piece = opened.read(0, 1, 2).unwrap();
        assert_eq!((piece.input_ids, piece.labels), (vec![2, 3], vec![2, 3]));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        written(&path);
        let sound = std::fs::read(&path).unwrap();
        assert!(RowStore::open::<String>(&path).is_some());
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(RowStore::open::<String>(&path).is_none(), "byte {at}");
            std::fs::write(&path, &sound[..at]).unwrap();
            assert!(RowStore::open::<String>(&path).is_none(), "cut at {at}");
        }
    }
}
