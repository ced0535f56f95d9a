//! A blob in a file, on its way out: every chunk is held against the blob's name before it is given.
//!
//! ```text
//!   <blob>            the bytes
//!   <blob>.outline    made once, from the bytes or as they came; made anew where it is missing or wrong
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fleetune_shared::BlobHash;
use thiserror::Error;

use super::{CHUNK_BYTES, Outline, OutlineHasher};

/// Why a stored blob is not given.
#[derive(Debug, Error)]
pub enum StoredError {
    /// There is no such file.
    #[error("it is not here")]
    Missing,
    /// More was asked to be skipped than there is.
    #[error("it has {0} bytes")]
    Offset(u64),
    /// The bytes are not what they are named for.
    #[error("its bytes do not match its name")]
    Damaged,
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StoredError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            ErrorKind::NotFound => Self::Missing,
            _ => Self::Io { path, source },
        }
    }
}

/// A blob's open file and its outline. Stays readable when the file is removed.
#[derive(Debug)]
pub struct StoredBlob {
    path: PathBuf,
    file: File,
    outline: Outline,
}

impl StoredBlob {
    /// Opens a blob. Where there is no outline beside it, all of it is read to make one.
    ///
    /// # Errors
    /// [`StoredError::Missing`], [`StoredError::Damaged`] where its bytes make another blob, [`StoredError::Io`].
    pub fn open(blob: BlobHash, path: &Path) -> Result<Self, StoredError> {
        let file = File::open(path).map_err(StoredError::io(path))?;
        let bytes = file.metadata().map_err(StoredError::io(path))?.len();
        let kept = fs::read(beside(path)).unwrap_or_default();
        let outline = match Outline::read(blob, bytes, &kept) {
            Ok(outline) => outline,
            Err(_) => outline_of(&file, bytes).map_err(StoredError::io(path))?,
        };
        if outline.blob() != blob {
            return Err(StoredError::Damaged);
        }
        if outline.to_bytes() != kept {
            // Only costs that it is made again.
            let _ = Self::keep_outline(&outline, path);
        }
        Ok(Self { path: path.to_owned(), file, outline })
    }

    /// Keeps the outline of the blob at `path` beside it.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_outline(outline: &Outline, path: &Path) -> io::Result<()> {
        let values = outline.to_bytes();
        // Two writers write the same; one that is read half-written is wrong, and made anew.
        if values.is_empty() { Ok(()) } else { fs::write(beside(path), values) }
    }

    /// Removes a blob and its outline.
    ///
    /// # Errors
    /// The file system's, for the blob.
    pub fn remove(path: &Path) -> io::Result<()> {
        let _ = fs::remove_file(beside(path));
        fs::remove_file(path)
    }

    /// What its chunks hash to.
    #[must_use]
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Its bytes from `offset` on, `length` of them; all that are left for 0.
    ///
    /// # Errors
    /// [`StoredError::Offset`] behind its end.
    pub fn chunks(self, offset: u64, length: u64) -> Result<Chunks, StoredError> {
        let bytes = self.outline.bytes();
        if offset > bytes {
            return Err(StoredError::Offset(bytes));
        }
        let end = if length == 0 { bytes } else { offset.saturating_add(length).min(bytes) };
        Ok(Chunks { stored: self, at: offset, end })
    }
}

/// What is still to be given of a stored blob.
#[derive(Debug)]
pub struct Chunks {
    stored: StoredBlob,
    at: u64,
    end: u64,
}

impl Chunks {
    /// The next bytes, at most a chunk of them, or `None` after the last.
    ///
    /// # Errors
    /// [`StoredError::Damaged`] for a chunk that is not what it was, [`StoredError::Io`].
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, StoredError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let StoredBlob { path, file, outline } = &self.stored;
        let chunk = self.at / CHUNK_BYTES;
        let place = outline.place(chunk..chunk + 1);
        let mut bytes = vec![0; (place.end - place.start) as usize];
        file.read_exact_at(&mut bytes, place.start).map_err(|error| match error.kind() {
            // It became shorter.
            ErrorKind::UnexpectedEof => StoredError::Damaged,
            _ => StoredError::io(path)(error),
        })?;
        if !outline.has(chunk, &bytes) {
            return Err(StoredError::Damaged);
        }
        bytes.truncate((self.end - place.start).min(bytes.len() as u64) as usize);
        bytes.drain(..(self.at - place.start) as usize);
        self.at += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".outline");
    name.into()
}

fn outline_of(file: &File, bytes: u64) -> io::Result<Outline> {
    let mut hasher = OutlineHasher::default();
    let mut chunk = vec![0; CHUNK_BYTES.min(bytes) as usize];
    let mut at = 0;
    while at < bytes {
        let now = (bytes - at).min(CHUNK_BYTES) as usize;
        file.read_exact_at(&mut chunk[..now], at)?;
        hasher.update(&chunk[..now]);
        at += now as u64;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = CHUNK_BYTES as usize;

    fn put(folder: &Path, length: usize) -> (BlobHash, PathBuf, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        let path = folder.join("blob");
        fs::write(&path, &bytes).unwrap();
        (BlobHash(*blake3::hash(&bytes).as_bytes()), path, bytes)
    }

    fn all(blob: BlobHash, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, StoredError> {
        let mut chunks = StoredBlob::open(blob, path)?.chunks(offset, length)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next_chunk()? {
            assert!((1..=MIB).contains(&chunk.len()));
            bytes.extend(chunk);
        }
        Ok(bytes)
    }

    #[test]
    fn any_part_of_a_blob_is_given() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0, 1, MIB, MIB + 1, 3 * MIB + 7] {
            let (blob, path, bytes) = put(folder.path(), length);
            let _ = fs::remove_file(beside(&path));
            assert_eq!(all(blob, &path, 0, 0).unwrap(), bytes);
            assert_eq!(beside(&path).exists(), length > MIB, "{length}");
            let part = all(blob, &path, length as u64 / 2, 5).unwrap();
            assert_eq!(part, bytes[length / 2..(length / 2 + 5).min(length)]);
            assert_eq!(all(blob, &path, length as u64, 0).unwrap(), [0; 0]);
            let behind = all(blob, &path, length as u64 + 1, 0).unwrap_err();
            assert!(matches!(behind, StoredError::Offset(bytes) if bytes == length as u64));
        }
        let absent = StoredBlob::open(BlobHash([1; 32]), &folder.path().join("other"));
        assert!(matches!(absent.unwrap_err(), StoredError::Missing));
    }

    #[test]
    fn a_damaged_chunk_is_never_given_and_those_before_it_are() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, path, mut bytes) = put(folder.path(), 3 * MIB);
        all(blob, &path, 0, 0).unwrap();
        bytes[MIB + 3] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let mut chunks = StoredBlob::open(blob, &path).unwrap().chunks(0, 0).unwrap();
        assert_eq!(chunks.next_chunk().unwrap().unwrap(), bytes[..MIB]);
        assert!(matches!(chunks.next_chunk(), Err(StoredError::Damaged)));
        assert_eq!(all(blob, &path, 2 * MIB as u64, 0).unwrap(), bytes[2 * MIB..]);
        // Without the outline all of it is looked at first.
        fs::remove_file(beside(&path)).unwrap();
        assert!(matches!(all(blob, &path, 0, 0), Err(StoredError::Damaged)));
        // Shorter than it was.
        let (blob, path, bytes) = put(folder.path(), 3 * MIB);
        let stored = StoredBlob::open(blob, &path).unwrap();
        fs::write(&path, &bytes[..2 * MIB]).unwrap();
        let mut chunks = stored.chunks(2 * MIB as u64, 0).unwrap();
        assert!(matches!(chunks.next_chunk(), Err(StoredError::Damaged)));
    }

    #[test]
    fn a_wrong_outline_is_made_anew_and_a_blob_removed_while_it_is_read_is_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, path, bytes) = put(folder.path(), 2 * MIB + 1);
        fs::write(beside(&path), [7; 96]).unwrap();
        let stored = StoredBlob::open(blob, &path).unwrap();
        assert_eq!(fs::read(beside(&path)).unwrap(), stored.outline().to_bytes());
        let mut chunks = stored.chunks(0, 0).unwrap();
        let mut read = chunks.next_chunk().unwrap().unwrap();
        StoredBlob::remove(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            read.extend(chunk);
        }
        assert!(read == bytes);
    }
}
