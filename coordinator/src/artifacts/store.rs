//! The folders, and who may be in them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fleetune_proto::blob::{Outline, OutlineHasher, StoredBlob, StoredError};
use fleetune_shared::BlobHash;

use super::{BlobError, Upload, io_error};

/// An upload that nobody continued for so long is given up.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A blob that was young a minute ago is not made young again: whoever asks for it has that much less time.
const TOUCH_AFTER: Duration = Duration::from_secs(60);

/// How much of a blob is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Whole { bytes: u64 },
    Partial { bytes: u64 },
    Absent,
}

/// Blobs under one folder.
#[derive(Clone, Debug)]
pub(crate) struct BlobStore {
    folder: PathBuf,
    /// Blobs with an upload under way: two writers would spoil each other's file.
    uploading: Arc<Mutex<HashSet<BlobHash>>>,
}

/// The right to write one blob's partial file.
#[derive(Debug)]
pub(super) struct UploadRight {
    hash: BlobHash,
    uploading: Arc<Mutex<HashSet<BlobHash>>>,
}

impl Drop for UploadRight {
    fn drop(&mut self) {
        self.uploading.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
    }
}

impl BlobStore {
    /// Opens or creates the store.
    pub(crate) fn open(folder: &Path) -> Result<Self, BlobError> {
        for name in ["blobs", "partial", "quarantine"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        sync_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), uploading: Arc::default() })
    }

    /// How much of a blob is here. A whole blob asked for counts as young again: whoever asks is about to use it.
    pub(crate) fn stat(&self, hash: BlobHash) -> Result<Presence, BlobError> {
        let path = self.whole_path(hash);
        let looked = fs::metadata(&path).and_then(|metadata| {
            let now = SystemTime::now();
            let age = now.duration_since(metadata.modified()?);
            if age.is_err() || age.is_ok_and(|age| age > TOUCH_AFTER) {
                File::options().append(true).open(&path)?.set_modified(now)?;
            }
            Ok(metadata.len())
        });
        match looked {
            Ok(bytes) => return Ok(Presence::Whole { bytes }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("look at", &path)(error)),
        }
        Ok(match fs::metadata(self.partial_path(hash)) {
            Ok(metadata) => Presence::Partial { bytes: metadata.len() },
            Err(_) => Presence::Absent,
        })
    }

    /// Begins or continues an upload of a blob of `bytes` bytes at `offset`; `None` where the blob is here already.
    pub(crate) fn upload(
        &self,
        hash: BlobHash,
        bytes: u64,
        offset: u64,
    ) -> Result<Option<Upload>, BlobError> {
        if self.is_here(hash, bytes)? {
            return Ok(None);
        }
        let right = self.right(hash)?;
        Upload::begin(self.clone(), right, hash, bytes, offset).map(Some)
    }

    /// Takes a blob all at once: afterwards it is whole and durable. What a cut upload left of it is written over.
    pub(crate) fn put(&self, hash: BlobHash, bytes: &[u8]) -> Result<(), BlobError> {
        let mut hasher = OutlineHasher::default();
        hasher.update(bytes);
        let outline = hasher.finish();
        if outline.blob() != hash {
            return Err(BlobError::Mismatch { named: hash, found: outline.blob() });
        }
        if self.is_here(hash, bytes.len() as u64)? {
            return Ok(());
        }
        let _right = self.right(hash)?;
        let path = self.partial_path(hash);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(io_error("write", &path))?;
        self.publish(&outline)
    }

    /// Whether a blob of so many bytes is here already.
    fn is_here(&self, hash: BlobHash, bytes: u64) -> Result<bool, BlobError> {
        match self.stat(hash)? {
            Presence::Whole { bytes: stored } if stored == bytes => Ok(true),
            Presence::Whole { bytes: stored } => {
                Err(BlobError::Length { hash, sent: stored, declared: bytes })
            }
            Presence::Partial { .. } | Presence::Absent => Ok(false),
        }
    }

    fn right(&self, hash: BlobHash) -> Result<UploadRight, BlobError> {
        let mut uploading = self.uploading.lock().unwrap_or_else(PoisonError::into_inner);
        if !uploading.insert(hash) {
            return Err(BlobError::Contended(hash));
        }
        Ok(UploadRight { hash, uploading: Arc::clone(&self.uploading) })
    }

    /// Opens a whole blob.
    pub(crate) fn open_whole(&self, hash: BlobHash) -> Result<StoredBlob, BlobError> {
        StoredBlob::open(hash, &self.whole_path(hash)).map_err(|error| self.unreadable(hash, error))
    }

    /// What became of a blob that could not be read; a damaged one is taken out of reach.
    pub(crate) fn unreadable(&self, hash: BlobHash, error: StoredError) -> BlobError {
        match error {
            StoredError::Missing => BlobError::Missing(hash),
            StoredError::Offset(bytes) => BlobError::End { hash, bytes },
            StoredError::Damaged => match self.quarantine(hash) {
                Ok(()) => BlobError::Damaged(hash),
                Err(error) => error,
            },
            StoredError::Io { path, source } => BlobError::Io { action: "read", path, source },
        }
    }

    /// Removes blobs that are neither kept nor young, and uploads that nobody continued. Returns how many went.
    pub(crate) fn sweep(
        &self,
        kept: &HashSet<BlobHash>,
        young: Duration,
    ) -> Result<usize, BlobError> {
        let now = SystemTime::now();
        let is_older = |path: &Path, than: Duration| {
            fs::metadata(path)
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > than))
        };
        let mut removed = 0;
        for shard in list(&self.folder.join("blobs"))? {
            for path in list(&shard)? {
                let hash = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
                if hash.is_some_and(|hash| !kept.contains(&hash)) && is_older(&path, young) {
                    StoredBlob::remove(&path).map_err(io_error("remove", &path))?;
                    removed += 1;
                }
            }
        }
        for path in list(&self.folder.join("partial"))? {
            if is_older(&path, PARTIAL_AGE_MAX) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(removed)
    }

    pub(super) fn whole_path(&self, hash: BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.folder.join("blobs").join(&name[..2]).join(name)
    }

    pub(super) fn partial_path(&self, hash: BlobHash) -> PathBuf {
        self.folder.join("partial").join(hash.to_string())
    }

    /// Makes a verified, synced partial file the whole blob.
    pub(super) fn publish(&self, outline: &Outline) -> Result<(), BlobError> {
        let hash = outline.blob();
        let (partial, whole) = (self.partial_path(hash), self.whole_path(hash));
        let shard = whole.parent().unwrap_or(&self.folder);
        if !shard.exists() {
            fs::create_dir_all(shard).map_err(io_error("create", shard))?;
            sync_folder(&self.folder.join("blobs"))?;
        }
        // One that is missing later is made again.
        let _ = StoredBlob::keep_outline(outline, &whole);
        fs::rename(&partial, &whole).map_err(io_error("rename", &partial))?;
        sync_folder(shard)
    }

    /// Takes a damaged blob out of reach.
    fn quarantine(&self, hash: BlobHash) -> Result<(), BlobError> {
        let whole = self.whole_path(hash);
        let aside = self.folder.join("quarantine").join(hash.to_string());
        tracing::error!(blob = %hash, "damaged on disk, moved to {}", aside.display());
        fs::rename(&whole, &aside).map_err(io_error("quarantine", &whole))
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, BlobError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(io_error("list", folder))
}

fn sync_folder(path: &Path) -> Result<(), BlobError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync", path))
}
