//! Tokenised rows kept for later runs: what they are kept under, and for how long.
//!
//! A file is named by everything its rows depend on, the very bytes of the data files included, so that nothing old is
//! ever taken for new and two runs that write the same file write the same bytes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fleetune_shared::recipe::DataSettings;
use fleetune_shared::{BlobHash, ModelSpec};

use super::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// Goes up whenever rows come out differently than before.
const VERSION: u32 = 1;
/// The longest unused files go first beyond this.
const FOLDER_BYTES_MAX: u64 = 32 << 30;

/// The name for what these files become.
pub(super) fn key(
    sets: &[Vec<PathBuf>],
    settings: &DataSettings,
    tokenizer: Option<&Tokenizer>,
    spec: &ModelSpec,
) -> Result<BlobHash> {
    let DataSettings { format, text_field, rows_max, max_length, over_length, truncation, .. } =
        settings;
    let DataSettings { assistant_only_loss, completion_only_loss, packing, .. } = settings;
    let mut hasher = blake3::Hasher::new();
    let splits = packing.splits();
    let text = format!(
        "{VERSION} {format:?} {text_field:?} {rows_max:?} {max_length} {over_length:?} {truncation:?} \
         {assistant_only_loss} {completion_only_loss} {splits} {} {:?}",
        spec.vocab_size, spec.eos_token_ids
    );
    hasher.update(text.as_bytes());
    if let Some(tokenizer) = tokenizer {
        hasher.update(&tokenizer.fingerprint()?.0);
    }
    for paths in sets {
        hasher.update(&(paths.len() as u64).to_le_bytes());
        for path in paths {
            // CSV is told by its name.
            hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            let mut content = blake3::Hasher::new();
            let (file, _) = super::file::open(path)?;
            content.update_reader(file).map_err(|e| EngineError::io(path, e))?;
            hasher.update(content.finalize().as_bytes());
        }
    }
    Ok(BlobHash(*hasher.finalize().as_bytes()))
}

/// Marks a file as used.
pub(super) fn touch(path: &Path) {
    // Only how long it is kept depends on it.
    let _ = File::options().append(true).open(path).and_then(|f| f.set_modified(SystemTime::now()));
}

/// Removes the longest unused files of a folder that has become too big, but never `kept`.
pub(super) fn trim(folder: &Path, kept: &Path) {
    trim_to(folder, kept, FOLDER_BYTES_MAX);
}

fn trim_to(folder: &Path, kept: &Path, bytes_max: u64) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let of = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((meta.modified().ok()?, meta.len(), entry.path()))
    };
    let mut files: Vec<_> = entries.flatten().filter_map(of).collect();
    files.sort();
    let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in files {
        if total > bytes_max && path != kept && std::fs::remove_file(&path).is_ok() {
            total -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_unused_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, age) in [("old", 30), ("used", 40), ("new", 10), ("kept", 50)] {
            std::fs::write(path(name), [0; 100]).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            File::options().append(true).open(path(name)).unwrap().set_modified(then).unwrap();
        }
        touch(&path("used"));
        trim_to(folder.path(), &path("kept"), 250);
        let left = ["old", "used", "new", "kept"].map(|name| path(name).exists());
        assert_eq!(left, [false, true, false, true]);
    }
}
