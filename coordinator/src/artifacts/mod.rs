//! Blobs on disk: bytes named by their BLAKE3 hash.
//!
//! ```text
//!   partial/<hash>      grows chunk by chunk, survives a cut; nobody can read it
//!        │ length and hash as promised, synced
//!        ▼ rename, folder synced
//!   blobs/ab/<hash>     whole, its outline beside it; every chunk is held against that when it is read
//!        │ a chunk is not what it was
//!        ▼
//!   quarantine/<hash>   kept for a look, never served
//! ```
//!
//! No path is ever chosen by a peer: names are hashes.

mod store;
mod upload;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use fleetune_shared::BlobHash;
use thiserror::Error;

pub(crate) use store::{BlobStore, Presence};
pub(crate) use upload::Upload;

/// Largest chunk taken or given.
pub(crate) const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Why a blob was not taken or given.
#[derive(Debug, Error)]
pub(crate) enum BlobError {
    /// Not here, or not whole.
    #[error("blob {} is not stored here", .0.short())]
    Missing(BlobHash),
    /// The sender is somewhere else in the blob.
    #[error("blob {}: offset {offset} given, but {present} bytes are here: continue at {present}", .hash.short())]
    Offset { hash: BlobHash, offset: u64, present: u64 },
    /// More was asked to be skipped than there is.
    #[error("blob {} has {bytes} bytes, ask for an offset within them", .hash.short())]
    End { hash: BlobHash, bytes: u64 },
    /// Two senders at once.
    #[error("blob {} is being uploaded by another request, ask how far it is and continue", .0.short())]
    Contended(BlobHash),
    /// Declared and sent differ.
    #[error("blob {}: {sent} bytes sent where {declared} were declared", .hash.short())]
    Length { hash: BlobHash, sent: u64, declared: u64 },
    /// Cut; what came is kept.
    #[error("blob {}: the upload ended at {present} of {declared} bytes; continue at {present}", .hash.short())]
    Cut { hash: BlobHash, present: u64, declared: u64 },
    /// A chunk above the limit.
    #[error("a chunk of {0} bytes, expected at most {CHUNK_BYTES_MAX}")]
    Chunk(usize),
    /// What came is not what was named.
    #[error("blob {}: what was sent has hash {}; it was thrown away, send it again", .named.short(), .found.short())]
    Mismatch { named: BlobHash, found: BlobHash },
    /// What is stored is not what was stored.
    #[error("blob {} was damaged on the coordinator's disk and is quarantined; upload it again", .0.short())]
    Damaged(BlobHash),
    /// The file system said no.
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

fn io_error(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { action, path, source }
}
