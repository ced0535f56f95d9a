//! What a node remembers: who it is, its votes, its log and its last snapshot.
//!
//! ```text
//!   log        what raft asks for; mirrors the entries in memory
//!    │
//!   record     a value of any size as numbered, checksummed chunks
//!    │
//!   KeyValue   ordered bytes, written in atomic, durable batches
//!    └ database  sled, with what it takes to trust it: watermark, ballast, fdatasync
//! ```

mod ballast;
mod database;
mod log;
mod record;
mod watermark;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub(crate) use ballast::{Disk, DiskSpace};
pub(crate) use database::Database;
pub(crate) use log::{Identity, Log};

/// Why the store cannot be used. After any of these from a write, the process must end: what raft believes to be durable
/// may not be.
#[derive(Debug, Error)]
pub(crate) enum StorageError {
    /// The file system said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// sled said no.
    #[error("the database at {path} refused: {source}")]
    Database {
        /// Its folder.
        path: PathBuf,
        /// The answer.
        source: sled::Error,
    },
    /// What is on disk cannot be what was written.
    #[error(
        "the database at {path} is damaged: {what}; nothing was changed. Move the folder aside \
         (mv {path} {path}.damaged) and start again from a copy of it, or empty as a new node"
    )]
    Damaged {
        /// The folder to move aside.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Another process has it open.
    #[error("the database at {path} is open in another process; stop that one first")]
    Locked {
        /// Its folder.
        path: PathBuf,
    },
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Ordered bytes. A batch is written whole or not at all, and is durable when `write` returns.
pub(crate) trait KeyValue: Send + 'static {
    /// All pairs whose key starts with `prefix`, in order.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StorageError>;

    /// Writes a batch.
    fn write(&mut self, batch: Vec<Write>) -> Result<(), StorageError>;

    /// An error for contents that cannot be.
    fn damaged(&self, what: String) -> StorageError;
}

/// Values written here are at most this long: sled keeps longer ones in files that it never syncs.
pub(crate) const VALUE_BYTES_MAX: usize = 4096;
