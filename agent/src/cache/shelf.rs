//! What lies in the cache's folder, and what goes when there is too much of it: what was used longest ago.
//!
//! ```text
//!   <root>/ab/abcd…            one blob; its modification time is when a job last asked for it
//!   <root>/ab/abcd….outline    what each of its chunks hashes to
//!   <root>/ab/.abcd….partial   a download that grows, or was cut
//! ```
//!
//! A blob with a second name is in a running job's folder: removing it here would free nothing.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fleetune_shared::BlobHash;

/// A blob on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) hash: BlobHash,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// When a job last asked for it.
    pub(super) used: SystemTime,
    /// Whether a job's folder has it too.
    pub(super) in_use: bool,
}

impl Blob {
    fn of(path: PathBuf, meta: &Metadata) -> Option<Self> {
        let hash = path.file_name()?.to_str()?.parse().ok()?;
        let used = meta.modified().ok()?;
        Some(Self { hash, path, bytes: meta.len(), used, in_use: meta.nlink() > 1 })
    }
}

/// A cut download that nobody continued for so long is given up.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Every file on a shelf.
fn files(root: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries(root).flat_map(move |shelf| entries(&shelf.path()));
    files.filter_map(|file| Some((file.path(), file.metadata().ok().filter(Metadata::is_file)?)))
}

/// Every blob under `root`.
pub(super) fn blobs(root: &Path) -> Vec<Blob> {
    files(root).filter_map(|(path, meta)| Blob::of(path, &meta)).collect()
}

/// Downloads that were cut and never continued.
pub(super) fn abandoned(root: &Path) -> Vec<PathBuf> {
    let old = |meta: &Metadata| {
        let age = meta.modified().ok().and_then(|at| at.elapsed().ok());
        age.is_some_and(|age| age > PARTIAL_AGE_MAX)
    };
    let partial = |path: &Path| path.extension().is_some_and(|e| e == "partial");
    files(root).filter(|(path, meta)| partial(path) && old(meta)).map(|(path, _)| path).collect()
}

/// What has to go so that `coming` more bytes fit within `limit`: unused blobs, those used longest ago first, and no more
/// than it takes.
pub(super) fn surplus(mut blobs: Vec<Blob>, coming: u64, limit: u64) -> Vec<Blob> {
    let total: u64 = blobs.iter().map(|blob| blob.bytes).sum();
    let mut over = total.saturating_add(coming).saturating_sub(limit);
    blobs.retain(|blob| !blob.in_use);
    blobs.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.hash.0.cmp(&b.hash.0)));
    let goes = |blob: &&Blob| {
        let goes = over > 0;
        over = over.saturating_sub(blob.bytes);
        goes
    };
    let count = blobs.iter().take_while(goes).count();
    blobs.truncate(count);
    blobs
}

/// Notes that a job asks for the blob at `path` now.
pub(super) fn touch(path: &Path) -> io::Result<()> {
    File::open(path)?.set_modified(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn blob(name: u8, bytes: u64, used: u64, in_use: bool) -> Blob {
        let used = UNIX_EPOCH + Duration::from_secs(used);
        Blob { hash: BlobHash([name; 32]), path: PathBuf::new(), bytes, used, in_use }
    }

    fn gone(blobs: &[Blob], coming: u64, limit: u64) -> Vec<u8> {
        surplus(blobs.to_vec(), coming, limit).iter().map(|blob| blob.hash.0[0]).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_and_no_more_than_it_takes() {
        let blobs = [blob(1, 40, 3, false), blob(2, 30, 1, false), blob(3, 20, 2, true)];
        assert_eq!(gone(&blobs, 10, 100), [0u8; 0]);
        assert_eq!(gone(&blobs, 11, 100), [2]);
        assert_eq!(gone(&blobs, 40, 100), [2]);
        assert_eq!(gone(&blobs, 41, 100), [2, 1]);
        // What a job reads stays, even where that is too much.
        assert_eq!(gone(&blobs, 500, 100), [2, 1]);
        assert_eq!(gone(&blobs, u64::MAX, 100), [2, 1]);
    }

    #[test]
    fn a_folder_tells_what_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let name = "ab".repeat(32);
        let path = folder.path().join("ab").join(&name);
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "blob").unwrap();
        fs::write(folder.path().join("ab/.part"), "half of another").unwrap();
        let found = blobs(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].bytes, found[0].in_use), (4, false));

        File::open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        fs::hard_link(&path, folder.path().join("a job's")).unwrap();
        assert!(blobs(folder.path())[0].in_use);
        assert_eq!(blobs(folder.path())[0].used, UNIX_EPOCH);
        touch(&path).unwrap();
        assert!(blobs(folder.path())[0].used > found[0].used - Duration::from_secs(60));
    }

    #[test]
    fn a_cut_download_is_kept_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("ab")).unwrap();
        let path = folder.path().join("ab/.abcd.partial");
        let file = File::create(&path).unwrap();
        assert!(abandoned(folder.path()).is_empty());
        file.set_modified(SystemTime::now() - PARTIAL_AGE_MAX - Duration::from_secs(60)).unwrap();
        assert_eq!(abandoned(folder.path()), [path]);
    }
}
