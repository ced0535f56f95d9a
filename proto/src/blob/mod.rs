//! Blobs in chunks, each of which is held against the blob's name by itself, whoever sent it.
//!
//! ```text
//!   name (BLAKE3 root) ◀── merged ── outline: one value for every MiB ◀── held against ── chunk
//! ```
//!
//! [`Outline`] is the arithmetic, [`StoredBlob`] a blob's file with its outline beside it, [`give`] how a server hands
//! one out. The receiving end is [`Client::download`](crate::Client::download).

mod give;
mod outline;
mod stored;

pub use give::{ChunkStream, give};
pub use outline::{CHUNK_BYTES, Outline, OutlineError, OutlineHasher};
pub use stored::{Chunks, StoredBlob, StoredError};

use fleetune_shared::BlobHash;

/// The name of a blob as a request has it.
///
/// # Errors
/// What is wrong with it, for whoever asked.
pub fn read_hash(bytes: &[u8]) -> Result<BlobHash, String> {
    let found = bytes.len();
    bytes
        .try_into()
        .map(BlobHash)
        .map_err(|_| format!("a hash of {found} bytes, expected BLAKE3's 32"))
}
