//! sled 0.34 behind [`KeyValue`], with what it takes to trust it.
//!
//! - `flush` alone leaves data in the drive's cache: it is followed by fdatasync on sled's own file.
//! - a truncated file can panic while opening: opened under `catch_unwind`, refused by name.
//! - a damaged file can open as a shorter history: compared with the [`watermark`](super::watermark).
//! - its own threads may hold the file for a moment after it was dropped: opening waits for them.
//! - the cache would take 1 GiB: set to 64 MiB.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::watermark::{Mark, Watermark};
use super::{Disk, KeyValue, Pair, StorageError, VALUE_BYTES_MAX, Write};

const CACHE_BYTES: u64 = 64 << 20;

/// How long a lock is waited for. sled's threads keep the file, and with it the lock, until they have carried out what
/// was queued when the last handle was dropped, which takes milliseconds; whoever still has it then is another owner.
const LOCK_WITHIN: Duration = Duration::from_secs(1);

/// The number of the last batch; written with every batch.
const SEQUENCE: &[u8] = b"sequence";

#[derive(Debug)]
pub(crate) struct Database {
    sled: sled::Db,
    /// sled's file, opened a second time for fdatasync.
    file: File,
    folder: PathBuf,
    watermark: Watermark,
    sequence: u64,
}

impl Database {
    /// Opens or creates the database in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self, StorageError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StorageError::Io { action, path, source }
        };
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        Disk::under(folder).trim_ballast().map_err(io("keep a ballast in", folder))?;
        let damaged = |what| StorageError::Damaged { path: folder.to_owned(), what };

        let mark_path = folder.join("watermark");
        let watermark = Watermark::open(&mark_path).map_err(io("open", &mark_path))?;
        let mark = watermark.read().map_err(io("read", &mark_path))?;

        let sled_folder = folder.join("sled");
        let sled = open_sled(&sled_folder, folder)?;
        let file_path = sled_folder.join("db");
        let file = File::open(&file_path).map_err(io("open", &file_path))?;
        // The files' names must survive a power loss as their bytes do.
        for created in [sled_folder.as_path(), folder] {
            let synced = File::open(created).and_then(|f| f.sync_all());
            synced.map_err(io("sync", created))?;
        }

        let wrong = |source| StorageError::Database { path: folder.to_owned(), source };
        let sequence = match sled.get(SEQUENCE).map_err(wrong)?.as_deref() {
            None => 0,
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| {
                damaged(format!("its batch number has {} bytes, expected 8", bytes.len()))
            })?),
        };
        match mark {
            Mark::Unreadable => return Err(damaged("its watermark is unreadable".into())),
            Mark::At(durable) if durable > sequence => {
                return Err(damaged(format!(
                    "it holds batches up to {sequence}, but batch {durable} was durable"
                )));
            }
            Mark::At(_) | Mark::Fresh => {}
        }
        Ok(Self { sled, file, folder: folder.to_owned(), watermark, sequence })
    }

    fn io(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> StorageError {
        let path = self.folder.clone();
        move |source| StorageError::Io { action, path, source }
    }

    fn wrong(&self, source: sled::Error) -> StorageError {
        StorageError::Database { path: self.folder.clone(), source }
    }
}

fn open_sled(path: &Path, folder: &Path) -> Result<sled::Db, StorageError> {
    let since = Instant::now();
    loop {
        match try_open_sled(path, folder) {
            Err(StorageError::Locked { .. }) if since.elapsed() < LOCK_WITHIN => {
                thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

fn try_open_sled(path: &Path, folder: &Path) -> Result<sled::Db, StorageError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .print_profile_on_drop(false);
    let damaged = |what| StorageError::Damaged { path: folder.to_owned(), what };
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("lock") => {
            Err(StorageError::Locked { path: folder.to_owned() })
        }
        Ok(Err(sled::Error::Corruption { .. })) => Err(damaged("sled found corruption".into())),
        Ok(Err(source)) => Err(StorageError::Database { path: folder.to_owned(), source }),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            Err(damaged(format!("sled cannot read it ({text})")))
        }
    }
}

impl KeyValue for Database {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StorageError> {
        let read = || {
            self.sled
                .scan_prefix(prefix)
                .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<_, _>>()
        };
        match catch_unwind(AssertUnwindSafe(read)) {
            Ok(pairs) => pairs.map_err(|source| self.wrong(source)),
            Err(_) => Err(self.damaged("sled cannot read a page".into())),
        }
    }

    fn write(&mut self, batch: Vec<Write>) -> Result<(), StorageError> {
        let next = self.sequence + 1;
        let mut writes = sled::Batch::default();
        for write in batch {
            match write {
                Write::Put(key, value) => {
                    debug_assert!(value.len() <= VALUE_BYTES_MAX);
                    writes.insert(key, value);
                }
                Write::Delete(key) => writes.remove(key),
            }
        }
        writes.insert(SEQUENCE, &next.to_be_bytes());
        self.sled.apply_batch(writes).map_err(|source| self.wrong(source))?;
        self.sled.flush().map_err(|source| self.wrong(source))?;
        self.file.sync_data().map_err(self.io("sync"))?;
        self.watermark.write(next).map_err(self.io("write the watermark of"))?;
        self.sequence = next;
        Ok(())
    }

    fn damaged(&self, what: String) -> StorageError {
        StorageError::Damaged { path: self.folder.clone(), what }
    }
}
