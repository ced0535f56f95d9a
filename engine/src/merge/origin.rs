//! Where a merged result came from, kept beside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use fleetune_shared::BlobHash;
use serde::Serialize;
use serde_json::Value;

use crate::model::files_of;
use crate::{EngineError, Result};

const FILE: &str = "origin.json";

/// What was done and to what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Origin {
    /// The method's name.
    pub(super) method: String,
    /// Everything else that decides the result.
    pub(super) parameters: Value,
    pub(super) parents: Vec<Parent>,
}

/// One model or adapter that went in.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Parent {
    role: &'static str,
    /// As it was named.
    path: String,
    /// Hashes by file name.
    files: BTreeMap<String, BlobHash>,
}

impl Parent {
    /// A model folder or a GGUF file.
    pub(super) fn model(role: &'static str, path: &Path) -> Result<Self> {
        Self::of(role, path, files_of(path)?.iter().map(std::path::PathBuf::as_path))
    }

    /// A PEFT folder.
    pub(super) fn adapter(path: &Path) -> Result<Self> {
        let files = ["adapter_config.json", "adapter_model.safetensors"].map(|f| path.join(f));
        Self::of("adapter", path, files.iter().map(std::path::PathBuf::as_path))
    }

    fn of<'a>(
        role: &'static str,
        path: &Path,
        files: impl Iterator<Item = &'a Path>,
    ) -> Result<Self> {
        let hash = |file: &Path| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let io = |e| EngineError::io(file, e);
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(file).map_err(io)?).map_err(io)?;
            Ok((name, BlobHash(*hasher.finalize().as_bytes())))
        };
        let files = files.map(hash).collect::<Result<_>>()?;
        Ok(Self { role, path: path.display().to_string(), files })
    }
}

impl Origin {
    /// Writes `origin.json`.
    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other);
        text.and_then(|text| std::fs::write(&path, text + "\n"))
            .map_err(|e| EngineError::io(&path, e))
    }
}
