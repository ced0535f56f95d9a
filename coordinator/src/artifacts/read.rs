//! A blob on its way out: hashed while it is read, so that damage is noticed before the last chunk is given.

use std::fs::File;
use std::io::{self, ErrorKind, Read};

use blake3::Hasher;
use fleetune_shared::BlobHash;

use super::{BlobError, BlobStore, CHUNK_BYTES_MAX, io_error};

/// A whole blob's chunks, in order.
#[derive(Debug)]
pub(crate) struct BlobReader {
    store: BlobStore,
    file: File,
    hasher: Hasher,
    hash: BlobHash,
    left: u64,
}

impl BlobReader {
    pub(super) fn open(store: BlobStore, hash: BlobHash, offset: u64) -> Result<Self, BlobError> {
        let path = store.whole_path(hash);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(BlobError::Missing(hash));
            }
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        if offset > bytes {
            return Err(BlobError::Offset { hash, offset, present: bytes });
        }
        // What the reader has already still has to be what it was: the hash is over everything.
        let mut hasher = Hasher::new();
        hasher.update_reader(file.by_ref().take(offset)).map_err(io_error("read", &path))?;
        Ok(Self { store, file, hasher, hash, left: bytes - offset })
    }

    /// The next chunk, or `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, BlobError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut chunk = vec![0; CHUNK_BYTES_MAX.min(self.left as usize)];
        self.file.read_exact(&mut chunk).map_err(|source| self.unreadable(source))?;
        self.hasher.update(&chunk);
        self.left -= chunk.len() as u64;
        if self.left == 0 && BlobHash(*self.hasher.finalize().as_bytes()) != self.hash {
            self.store.quarantine(self.hash)?;
            return Err(BlobError::Damaged(self.hash));
        }
        Ok(Some(chunk))
    }

    fn unreadable(&self, source: io::Error) -> BlobError {
        io_error("read", &self.store.whole_path(self.hash))(source)
    }
}
