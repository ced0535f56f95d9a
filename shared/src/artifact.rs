//! An artifact is a named set of blobs: a checkpoint, an adapter, a model, or the files a job reads.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{BlobHash, ByteSize, JobId};

/// A file name inside an artifact: one to four plain components joined by `/`, never a way out of the
/// folder it is written to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

/// Why a text is no file name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a file name, expected plain components without `..`, NUL, `\\` or a leading `/`"
)]
pub struct FileNameError(String);

impl FileName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FileName {
    type Error = FileNameError;
    fn try_from(text: String) -> Result<Self, FileNameError> {
        let plain = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.len() <= 255
                && !part.chars().any(|c| c.is_control() || c == '\\')
        };
        if (1..=4).contains(&text.split('/').count()) && text.split('/').all(plain) {
            Ok(Self(text))
        } else {
            Err(FileNameError(text.chars().take(80).flat_map(char::escape_default).collect()))
        }
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFile {
    /// Where it stands in the artifact's folder.
    pub name: FileName,
    /// What it holds.
    pub blob: BlobHash,
    /// How much of it there is.
    pub bytes: ByteSize,
}

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// Everything needed to continue a job bit for bit.
    Checkpoint,
    /// What a user takes away from LoRA training, in PEFT's on-disk format.
    Adapter,
    /// A whole model: merged, or fully fine-tuned.
    Model,
}

/// Where an artifact came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The job that made it.
    pub job: JobId,
    /// BLAKE3 of the canonical recipe (or of the merge's statement).
    pub recipe: BlobHash,
    /// Hashes of the base model's files, sorted.
    pub base: Vec<BlobHash>,
    /// Hashes of the data set's files, sorted.
    pub data: Vec<BlobHash>,
    /// Jobs whose artifacts this one was made from.
    pub parents: Vec<JobId>,
}

/// A set of verified blobs under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// What it is.
    pub kind: ArtifactKind,
    /// The optimizer step after which it was written.
    pub step: u64,
    /// Its files, sorted by name.
    pub files: Vec<ArtifactFile>,
}

impl Artifact {
    /// Bytes of all files together.
    #[must_use]
    pub fn bytes(&self) -> ByteSize {
        ByteSize(self.files.iter().map(|f| f.bytes.0).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_never_leaves_its_folder() {
        for good in ["a", "model.safetensors", "step-10/adapter_config.json"] {
            assert!(FileName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "..", "a/../b", "a//b", "a\0b", "a\\b", "./a", "a/b/c/d/e"] {
            assert!(FileName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(FileName::try_from("x".repeat(4096)).is_err());
    }
}
