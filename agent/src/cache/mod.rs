//! Inputs of jobs, kept by hash: a base model crosses the network once.
//!
//! A blob is verified when it arrives and again when this process first meets it on disk, so that a file that rotted
//! is fetched anew and never trained on. What takes more room than its owner allows goes ([`shelf`]). Other agents may
//! read it too (`crate::share`); that does not keep it here.

mod shelf;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleetune_proto::blob::{StoredBlob, StoredError};
use fleetune_proto::client::{Client, ClientError, Supply};
use fleetune_shared::{ArtifactFile, BlobHash, ByteSize};
use nix::sys::statvfs::statvfs;
use thiserror::Error;
use tracing::{info, warn};

use crate::blocking::blocking;

/// Why an input is not here.
#[derive(Debug, Error)]
pub(crate) enum CacheError {
    /// The coordinator does not hand it out.
    #[error("fetching {name}: {source}")]
    Client { name: String, source: ClientError },
    /// The local disk.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Blobs on the local disk.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    client: Client,
    /// One entry per blob met by this process: held while it is fetched, `true` once it is known to be whole.
    known: Mutex<HashMap<BlobHash, Arc<tokio::sync::Mutex<bool>>>>,
    /// The most it may hold.
    limit: ByteSize,
    /// Bytes on their way into it.
    coming: Mutex<u64>,
    /// Blobs worth telling the coordinator of: jobs that read them are best placed here.
    large: Mutex<BTreeSet<BlobHash>>,
}

/// Smaller blobs are fetched before anybody notices.
const LARGE_BYTES_MIN: u64 = 16 << 20;
/// So many are told of; every change of them goes through the log.
const LARGE_COUNT_MAX: usize = 32;

impl Cache {
    /// Half of what the disk has to spare where `limit` is not given.
    pub(crate) fn new(root: PathBuf, client: Client, limit: Option<ByteSize>) -> Self {
        for path in shelf::abandoned(&root) {
            info!("{}: nobody continued it, removed", path.display());
            let _ = fs::remove_file(path);
        }
        let blobs = shelf::blobs(&root);
        let held: u64 = blobs.iter().map(|blob| blob.bytes).sum();
        let spare = || free_bytes(&root).map(|free| ByteSize((held + free) / 2));
        let limit = limit.or_else(spare).unwrap_or(ByteSize(u64::MAX));
        let large = blobs.iter().filter(|blob| blob.bytes >= LARGE_BYTES_MIN);
        let large = large.map(|blob| blob.hash).take(LARGE_COUNT_MAX).collect();
        info!("{} of models and data are kept, at most {limit}", ByteSize(held));
        Self {
            root,
            client,
            known: Mutex::default(),
            limit,
            coming: Mutex::new(0),
            large: Mutex::new(large),
        }
    }

    /// Where trainers keep tokenised rows for each other.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }

    /// Large blobs that are here.
    pub(crate) fn large(&self) -> BTreeSet<BlobHash> {
        lock(&self.large).clone()
    }

    /// Puts a file of an artifact into `folder` under its name, fetching it if it is not here; `supply` says whom to ask
    /// first, and tells afterwards who sent it.
    pub(crate) async fn place(
        &self,
        file: &ArtifactFile,
        folder: &Path,
        supply: &mut Supply,
    ) -> Result<(), CacheError> {
        // Held until the job has it, so that nobody makes room of it in between.
        let entry = self.entry(file.blob);
        let mut whole = entry.lock().await;
        let blob = self.fetch(file, &mut whole, supply).await?;
        let path = folder.join(file.name.as_str());
        // Another name is given at once; a copy may take a while.
        if name(&blob, &path).is_ok() {
            return Ok(());
        }
        let to = path.clone();
        let linked = blocking(move || link(&blob, &to)).await;
        linked.map_err(|source| CacheError::Io { path, source })
    }

    /// As [`Cache::place`], for what is needed once: it is not kept.
    pub(crate) async fn pass(
        &self,
        file: &ArtifactFile,
        folder: &Path,
        supply: &mut Supply,
    ) -> Result<(), CacheError> {
        let placed = self.place(file, folder, supply).await;
        let entry = self.entry(file.blob);
        let mut whole = entry.lock().await;
        self.forget(file.blob, &mut whole).await;
        placed
    }

    /// A blob's length, if it is here.
    pub(crate) fn bytes_of(&self, blob: BlobHash) -> Option<u64> {
        fs::metadata(self.path(blob)).ok().map(|meta| meta.len())
    }

    /// A blob for somebody else to read, who goes on reading it if room is made of it meanwhile.
    pub(crate) fn open(&self, blob: BlobHash) -> Result<StoredBlob, StoredError> {
        StoredBlob::open(blob, &self.path(blob))
    }

    /// Somebody else found that a blob is not what it was.
    pub(crate) fn drop_damaged(&self, blob: BlobHash) {
        warn!("{}: does not match its hash, kept no longer", self.path(blob).display());
        let entry = self.entry(blob);
        // A job that has it at this moment looks at it itself.
        if let Ok(mut whole) = entry.try_lock() {
            let _ = StoredBlob::remove(&self.unlisted(blob, &mut whole));
        }
    }

    async fn forget(&self, blob: BlobHash, whole: &mut bool) {
        let path = self.unlisted(blob, whole);
        // A file system may take a second to give back what a model took.
        let _ = blocking(move || StoredBlob::remove(&path)).await;
    }

    /// Nobody is told of it any more; its file is still there.
    fn unlisted(&self, blob: BlobHash, whole: &mut bool) -> PathBuf {
        *whole = false;
        lock(&self.large).remove(&blob);
        self.path(blob)
    }

    /// Makes room for `bytes` more, as far as jobs leave some; they are on their way while the answer lives.
    async fn make_room(&self, bytes: u64) -> Coming<'_> {
        *lock(&self.coming) += bytes;
        let coming = Coming { cache: self, bytes };
        let wanted = *lock(&self.coming);
        let root = self.root.clone();
        let blobs = blocking(move || Ok(shelf::blobs(&root))).await.unwrap_or_default();
        for blob in shelf::surplus(blobs, wanted, self.limit.0) {
            let entry = self.entry(blob.hash);
            // Whoever has it at this moment is about to use it.
            let Ok(mut whole) = entry.try_lock() else { continue };
            info!("{} was used longest ago and makes room: {}", blob.hash, ByteSize(blob.bytes));
            self.forget(blob.hash, &mut whole).await;
        }
        coming
    }

    /// The path of a blob that is whole, fetched if it is not here; the caller has its entry.
    async fn fetch(
        &self,
        file: &ArtifactFile,
        whole: &mut bool,
        supply: &mut Supply,
    ) -> Result<PathBuf, CacheError> {
        let path = self.path(file.blob);
        if path.exists() {
            let sound = *whole || hash(&path).await.is_ok_and(|found| found == file.blob);
            if sound {
                *whole = true;
                if let Err(error) = shelf::touch(&path) {
                    warn!("{}: {error}; it may be dropped before others", path.display());
                }
                return Ok(path);
            }
            warn!("{}: does not match its hash, fetched anew", path.display());
            let _ = StoredBlob::remove(&path);
        }
        let _coming = self.make_room(file.bytes.0).await;
        let failed_before = supply.failures.len();
        let download = self.client.download_from(supply, file.blob, file.bytes, &path, |_, _| {});
        let downloaded = download.await;
        for failure in &supply.failures[failed_before..] {
            warn!("{}: {failure}; not asked for it again", file.name);
        }
        let outline = downloaded
            .map_err(|source| CacheError::Client { name: file.name.to_string(), source })?;
        if let Err(error) = StoredBlob::keep_outline(&outline, &path) {
            warn!("{}: its outline: {error}", path.display());
        }
        // Trainers see this very file.
        fs::set_permissions(&path, Permissions::from_mode(0o444))
            .map_err(|source| CacheError::Io { path: path.clone(), source })?;
        *whole = true;
        if file.bytes.0 >= LARGE_BYTES_MIN {
            let mut large = lock(&self.large);
            if large.len() < LARGE_COUNT_MAX {
                large.insert(file.blob);
            }
        }
        Ok(path)
    }

    fn entry(&self, blob: BlobHash) -> Arc<tokio::sync::Mutex<bool>> {
        let mut known = lock(&self.known);
        Arc::clone(known.entry(blob).or_default())
    }

    fn path(&self, blob: BlobHash) -> PathBuf {
        let name = blob.to_string();
        self.root.join(&name[..2]).join(name)
    }
}

/// Bytes on their way, until they are here or given up.
struct Coming<'a> {
    cache: &'a Cache,
    bytes: u64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        *lock(&self.cache.coming) -= self.bytes;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the disk has to spare where `root` is or will be, if the system says.
fn free_bytes(root: &Path) -> Option<u64> {
    let there = root.ancestors().find(|folder| folder.exists())?;
    let stat = statvfs(there).ok()?;
    Some(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

/// The same file under another name; a copy where the file system has no links.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    name(from, to).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => Err(error),
        _ => fs::copy(from, to).map(drop),
    })
}

/// Gives a file another name.
fn name(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::hard_link(from, to)
}

async fn hash(path: &Path) -> io::Result<BlobHash> {
    let path = path.to_owned();
    blocking(move || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(BlobHash(*hasher.finalize().as_bytes()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use fleetune_shared::ArtifactFile;

    use super::*;

    /// A cache whose blobs are put there by hand.
    fn cache(root: &Path, limit: u64) -> Cache {
        let client = Client::connect("http://127.0.0.1:9").unwrap();
        Cache::new(root.to_owned(), client, Some(ByteSize(limit)))
    }

    fn put(root: &Path, text: &str, age: u64) -> ArtifactFile {
        let blob = BlobHash(*blake3::hash(text.as_bytes()).as_bytes());
        let name = blob.to_string();
        let path = root.join(&name[..2]).join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let used = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
        File::open(&path).unwrap().set_modified(used).unwrap();
        let name = text[..1].to_owned().try_into().unwrap();
        ArtifactFile { name, bytes: ByteSize(text.len() as u64), blob }
    }

    #[tokio::test]
    async fn room_is_made_of_what_no_job_has_and_nobody_asked_for_lately() {
        let folder = tempfile::tempdir().unwrap();
        let (root, job) = (folder.path().join("blobs"), folder.path().join("job"));
        let [oldest, old, new] = [("a".repeat(10), 30), ("b".repeat(10), 20), ("c".repeat(10), 10)]
            .map(|(text, age)| put(&root, &text, age));
        let cache = cache(&root, 40);
        let here = || [&oldest, &old, &new].map(|file| cache.path(file.blob).exists());

        drop(cache.make_room(10).await);
        assert_eq!(here(), [true, true, true]);
        // A job takes the oldest: it is the newest from now on, and stays while the job has it.
        cache.place(&oldest, &job, &mut Supply::default()).await.unwrap();
        let coming = cache.make_room(15).await;
        assert_eq!(here(), [true, false, true]);
        // What is on its way counts.
        drop(cache.make_room(10).await);
        assert_eq!(here(), [true, false, false]);
        drop(coming);
        drop(cache.make_room(100).await);
        assert_eq!(here(), [true, false, false]);
        fs::remove_dir_all(&job).unwrap();
        drop(cache.make_room(100).await);
        assert_eq!(here(), [false, false, false]);
    }

    #[tokio::test]
    async fn what_others_read_makes_room_like_anything_else_and_is_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("blobs");
        let text = "abc".repeat(1 << 20);
        let file = put(&root, &text, 10);
        let cache = cache(&root, text.len() as u64);
        let mut chunks = cache.open(file.blob).unwrap().chunks(0, 0).unwrap();
        let mut read = chunks.next_chunk().unwrap().unwrap();
        drop(cache.make_room(1).await);
        assert_eq!(cache.bytes_of(file.blob), None);
        assert!(matches!(cache.open(file.blob), Err(StoredError::Missing)));
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            read.extend(chunk);
        }
        assert!(read == text.as_bytes());
        let left = fs::read_dir(cache.path(file.blob).parent().unwrap()).unwrap();
        assert_eq!(left.count(), 0, "its outline went with it");
    }
}
