//! How far the database had come, kept outside of it.
//!
//! sled reads a damaged file up to the damage and calls the rest torn: a shorter history that looks whole. So the number
//! of the last durable batch is also written to a file of its own, after the batch and without syncing: it survives the
//! process, it is never ahead of the database, and a database behind it has lost something.
//!
//! Two slots in two sectors take turns, so that a torn write leaves the other.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SLOT_BYTES: u64 = 512;

#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing was ever written.
    Fresh,
    /// This batch was durable.
    At(u64),
    /// Neither slot holds together.
    Unreadable,
}

fn slot(number: u64) -> [u8; 24] {
    let mut slot = [0; 24];
    slot[..8].copy_from_slice(&number.to_be_bytes());
    slot[8..].copy_from_slice(&blake3::hash(&number.to_be_bytes()).as_bytes()[..16]);
    slot
}

impl Watermark {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file })
    }

    pub(super) fn read(&self) -> io::Result<Mark> {
        if self.file.metadata()?.len() == 0 {
            return Ok(Mark::Fresh);
        }
        let mut best = Mark::Unreadable;
        for at in [0, SLOT_BYTES] {
            let mut found = [0; 24];
            if self.file.read_exact_at(&mut found, at).is_err() {
                continue;
            }
            let number = found[..8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
            if found == slot(number) && !matches!(best, Mark::At(other) if other > number) {
                best = Mark::At(number);
            }
        }
        Ok(best)
    }

    pub(super) fn write(&self, number: u64) -> io::Result<()> {
        self.file.write_all_at(&slot(number), number % 2 * SLOT_BYTES)
    }
}
