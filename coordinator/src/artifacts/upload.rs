//! A blob on its way in.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use fleetune_proto::blob::OutlineHasher;
use fleetune_shared::BlobHash;

use super::store::UploadRight;
use super::{BlobError, BlobStore, CHUNK_BYTES_MAX, io_error};

/// One sender's upload. Dropped early, what came so far is kept for whoever continues.
#[derive(Debug)]
pub(crate) struct Upload {
    store: BlobStore,
    file: File,
    hasher: OutlineHasher,
    hash: BlobHash,
    declared: u64,
    present: u64,
    _right: UploadRight,
}

impl Upload {
    pub(super) fn begin(
        store: BlobStore,
        right: UploadRight,
        hash: BlobHash,
        declared: u64,
        offset: u64,
    ) -> Result<Self, BlobError> {
        let path = store.partial_path(hash);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let present = file.metadata().map_err(io_error("look at", &path))?.len();
        if offset != present {
            return Err(BlobError::Offset { hash, offset, present });
        }
        if present > declared {
            return Err(BlobError::Length { hash, sent: present, declared });
        }
        let mut hasher = OutlineHasher::default();
        let mut chunk = vec![0; CHUNK_BYTES_MAX.min(present as usize)];
        let mut left = present as usize;
        while left > 0 {
            let now = &mut chunk[..left.min(CHUNK_BYTES_MAX)];
            (&file).read_exact(now).map_err(io_error("read", &path))?;
            hasher.update(now);
            left -= now.len();
        }
        Ok(Self { store, file, hasher, hash, declared, present, _right: right })
    }

    /// Takes the next bytes.
    pub(crate) fn append(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(BlobError::Chunk(chunk.len()));
        }
        let sent = self.present + chunk.len() as u64;
        if sent > self.declared {
            return Err(BlobError::Length { hash: self.hash, sent, declared: self.declared });
        }
        let path = self.store.partial_path(self.hash);
        (&self.file).write_all(chunk).map_err(io_error("write", &path))?;
        self.hasher.update(chunk);
        self.present = sent;
        Ok(())
    }

    /// Verifies, syncs and publishes: afterwards the blob is whole and durable.
    pub(crate) fn finish(self) -> Result<(), BlobError> {
        let Self { store, file, hasher, hash, declared, present, _right } = self;
        if present < declared {
            return Err(BlobError::Cut { hash, present, declared });
        }
        let path = store.partial_path(hash);
        let outline = hasher.finish();
        if outline.blob() != hash {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
            return Err(BlobError::Mismatch { named: hash, found: outline.blob() });
        }
        file.sync_all().map_err(io_error("sync", &path))?;
        store.publish(&outline)
    }
}
