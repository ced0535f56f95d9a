//! Inputs of jobs, kept by hash: a base model crosses the network once.
//!
//! A blob is verified when it arrives and again when this process first meets it on disk, so that a file that rotted
//! is fetched anew and never trained on.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fleetune_proto::client::{Client, ClientError};
use fleetune_shared::{ArtifactFile, BlobHash};
use thiserror::Error;
use tracing::warn;

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
    /// Blobs worth telling the coordinator of: jobs that read them are best placed here.
    large: Mutex<BTreeSet<BlobHash>>,
}

/// Smaller blobs are fetched before anybody notices.
const LARGE_BYTES_MIN: u64 = 16 << 20;
/// So many are told of; every change of them goes through the log.
const LARGE_COUNT_MAX: usize = 32;

impl Cache {
    pub(crate) fn new(root: PathBuf, client: Client) -> Self {
        let large = Mutex::new(large_blobs(&root));
        Self { root, client, known: Mutex::default(), large }
    }

    /// Where trainers keep tokenised rows for each other.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }

    /// Large blobs that are here.
    pub(crate) fn large(&self) -> BTreeSet<BlobHash> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a file of an artifact into `folder` under its name, fetching it if it is not here.
    pub(crate) async fn place(&self, file: &ArtifactFile, folder: &Path) -> Result<(), CacheError> {
        let blob = self.fetch(file).await?;
        let path = folder.join(file.name.as_str());
        link(&blob, &path).map_err(|source| CacheError::Io { path, source })
    }

    /// As [`Cache::place`], for what is needed once: it is not kept.
    pub(crate) async fn pass(&self, file: &ArtifactFile, folder: &Path) -> Result<(), CacheError> {
        let placed = self.place(file, folder).await;
        let entry = self.entry(file.blob);
        let mut whole = entry.lock().await;
        *whole = false;
        let _ = fs::remove_file(self.path(file.blob));
        self.large.lock().unwrap_or_else(PoisonError::into_inner).remove(&file.blob);
        placed
    }

    async fn fetch(&self, file: &ArtifactFile) -> Result<PathBuf, CacheError> {
        let path = self.path(file.blob);
        let entry = self.entry(file.blob);
        let mut whole = entry.lock().await;
        if *whole && path.exists() {
            return Ok(path);
        }
        if path.exists() {
            if hash(&path).await.is_ok_and(|found| found == file.blob) {
                *whole = true;
                return Ok(path);
            }
            warn!("{}: does not match its hash, fetched anew", path.display());
            let _ = fs::remove_file(&path);
        }
        self.client
            .download(file.blob, file.bytes, &path, |_, _| {})
            .await
            .map_err(|source| CacheError::Client { name: file.name.to_string(), source })?;
        // Trainers see this very file.
        fs::set_permissions(&path, Permissions::from_mode(0o444))
            .map_err(|source| CacheError::Io { path: path.clone(), source })?;
        *whole = true;
        if file.bytes.0 >= LARGE_BYTES_MIN {
            let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
            if large.len() < LARGE_COUNT_MAX {
                large.insert(file.blob);
            }
        }
        Ok(path)
    }

    fn entry(&self, blob: BlobHash) -> Arc<tokio::sync::Mutex<bool>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(blob).or_default())
    }

    fn path(&self, blob: BlobHash) -> PathBuf {
        let name = blob.to_string();
        self.root.join(&name[..2]).join(name)
    }
}

/// Large blobs of an earlier process. They are verified before they are used, see [`Cache`].
fn large_blobs(root: &Path) -> BTreeSet<BlobHash> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let large = |entry: &fs::DirEntry| {
        entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() >= LARGE_BYTES_MIN)
    };
    entries(root)
        .flat_map(|shelf| entries(&shelf.path()).collect::<Vec<_>>())
        .filter(large)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(LARGE_COUNT_MAX)
        .collect()
}

/// The same file under another name; a copy where the file system has no links.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::hard_link(from, to).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => Err(error),
        _ => fs::copy(from, to).map(drop),
    })
}

async fn hash(path: &Path) -> io::Result<BlobHash> {
    let path = path.to_owned();
    let hashing = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(BlobHash(*hasher.finalize().as_bytes()))
    });
    hashing.await.map_err(io::Error::other)?
}
