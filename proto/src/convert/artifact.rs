//! Blobs, artifacts, lineage and the inputs of a job.

use fleetune_shared::{
    Artifact, ArtifactFile, ArtifactKind, BlobHash, ByteSize, FileName, Input, InputRole, JobId,
    Lineage,
};

use super::{ConvertError, Field, enumeration, list, required};
use crate::v1;

super::convert_enum!(ArtifactKind, ArtifactKind, Checkpoint, Adapter, Model);
super::convert_enum!(InputRole, InputRole, Model, Data, Adapter);

/// A hash as its 32 bytes.
pub(crate) fn hash(bytes: &[u8]) -> Result<BlobHash, ConvertError> {
    <[u8; 32]>::try_from(bytes)
        .map(BlobHash)
        .map_err(|_| ConvertError::new(format!("has {} bytes, expected 32", bytes.len())))
}

pub(super) fn hashes(field: &str, values: &[Vec<u8>]) -> Result<Vec<BlobHash>, ConvertError> {
    values.iter().map(|bytes| hash(bytes)).collect::<Result<_, _>>().field(field)
}

impl From<ArtifactFile> for v1::ArtifactFile {
    fn from(file: ArtifactFile) -> Self {
        Self { name: file.name.into(), blob: file.blob.0.to_vec(), bytes: file.bytes.0 }
    }
}

impl TryFrom<v1::ArtifactFile> for ArtifactFile {
    type Error = ConvertError;
    fn try_from(file: v1::ArtifactFile) -> Result<Self, ConvertError> {
        if file.bytes > 1 << 60 {
            return Err(ConvertError::new(format!("is {}, above 2^60", file.bytes))).field("bytes");
        }
        Ok(Self {
            name: FileName::try_from(file.name)
                .map_err(|error| ConvertError::new(format!("is refused: {error}")))
                .field("name")?,
            blob: hash(&file.blob).field("blob")?,
            bytes: ByteSize(file.bytes),
        })
    }
}

impl From<Artifact> for v1::Artifact {
    fn from(artifact: Artifact) -> Self {
        Self {
            kind: v1::ArtifactKind::from(artifact.kind).into(),
            step: artifact.step,
            files: artifact.files.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Artifact> for Artifact {
    type Error = ConvertError;
    fn try_from(artifact: v1::Artifact) -> Result<Self, ConvertError> {
        Ok(Self {
            kind: enumeration::<v1::ArtifactKind, _>("kind", artifact.kind)?,
            step: artifact.step,
            files: list("files", artifact.files)?,
        })
    }
}

impl From<Lineage> for v1::Lineage {
    fn from(lineage: Lineage) -> Self {
        let bytes = |hashes: Vec<BlobHash>| hashes.iter().map(|h| h.0.to_vec()).collect();
        Self {
            job: lineage.job.0,
            recipe: lineage.recipe.0.to_vec(),
            base: bytes(lineage.base),
            data: bytes(lineage.data),
            parents: lineage.parents.iter().map(|job| job.0).collect(),
        }
    }
}

impl TryFrom<v1::Lineage> for Lineage {
    type Error = ConvertError;
    fn try_from(lineage: v1::Lineage) -> Result<Self, ConvertError> {
        Ok(Self {
            job: JobId(lineage.job),
            recipe: hash(&lineage.recipe).field("recipe")?,
            base: hashes("base", &lineage.base)?,
            data: hashes("data", &lineage.data)?,
            parents: lineage.parents.into_iter().map(JobId).collect(),
        })
    }
}

impl From<Input> for v1::Input {
    fn from(input: Input) -> Self {
        Self { role: v1::InputRole::from(input.role).into(), file: Some(input.file.into()) }
    }
}

impl TryFrom<v1::Input> for Input {
    type Error = ConvertError;
    fn try_from(input: v1::Input) -> Result<Self, ConvertError> {
        Ok(Self {
            role: enumeration::<v1::InputRole, _>("role", input.role)?,
            file: required("file", input.file)?,
        })
    }
}
