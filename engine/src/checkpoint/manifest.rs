//! Which files a checkpoint holds, and their hashes: how a torn one is told from a whole one.

use std::fs::{self, File};
use std::path::Path;

use fleetune_shared::{Artifact, ArtifactFile, ArtifactKind, BlobHash, ByteSize, FileName};

use crate::{EngineError, Result};

const MANIFEST: &str = "manifest.json";

/// Hashes every file of `folder` and writes `manifest.json`; everything is on disk when this returns.
pub(super) fn seal(folder: &Path, step: u64) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| EngineError::io(folder, e))? {
        let entry = entry.map_err(|e| EngineError::io(folder, e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let path = folder.join(&name);
        let io = |e| EngineError::io(&path, e);
        File::open(&path).and_then(|file| file.sync_all()).map_err(io)?;
        let (blob, bytes) = hash(&path)?;
        let name = FileName::try_from(name).map_err(|e| io(std::io::Error::other(e)))?;
        files.push(ArtifactFile { name, blob, bytes });
    }
    let path = folder.join(MANIFEST);
    let artifact = Artifact { kind: ArtifactKind::Checkpoint, step, files };
    let text = serde_json::to_vec_pretty(&artifact).map_err(std::io::Error::other);
    text.and_then(|text| {
        fs::write(&path, text)?;
        File::open(&path)?.sync_all()?;
        File::open(folder)?.sync_all()
    })
    .map_err(|e| EngineError::io(&path, e))
}

/// Whether `folder` is meant as a checkpoint, whole or not.
#[must_use]
pub fn is_one(folder: &Path) -> bool {
    folder.join(MANIFEST).exists() || folder.join(super::state::STATE).exists()
}

/// Compares every file of a checkpoint with its manifest.
///
/// # Errors
/// [`EngineError::Input`] naming the first file that is missing, cut or changed.
pub fn verify(folder: &Path) -> Result<Artifact> {
    let torn = |why: String| {
        EngineError::input(format!(
            "checkpoint {} is not whole: {why}; resume from an older one",
            folder.display()
        ))
    };
    let text = fs::read(folder.join(MANIFEST)).map_err(|e| torn(format!("{MANIFEST}: {e}")))?;
    let artifact: Artifact =
        serde_json::from_slice(&text).map_err(|e| torn(format!("{MANIFEST}: {e}")))?;
    for ArtifactFile { name, blob, bytes } in &artifact.files {
        let path = folder.join(name.as_str());
        let size = fs::metadata(&path).map_err(|e| torn(format!("{name}: {e}")))?.len();
        if size != bytes.0 {
            return Err(torn(format!("{name} has {size} bytes, expected {}", bytes.0)));
        }
        if hash(&path)?.0 != *blob {
            return Err(torn(format!("{name} does not match its hash")));
        }
    }
    Ok(artifact)
}

fn hash(path: &Path) -> Result<(BlobHash, ByteSize)> {
    let mut hasher = blake3::Hasher::new();
    let read = File::open(path).and_then(|file| {
        hasher.update_reader(file)?;
        Ok(())
    });
    read.map_err(|e| EngineError::io(path, e))?;
    Ok((BlobHash(*hasher.finalize().as_bytes()), ByteSize(hasher.count())))
}
