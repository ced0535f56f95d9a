//! Files that a job reads, on their way to the coordinator.

use std::collections::HashMap;
use std::path::PathBuf;

use fleetune_proto::Client;
use fleetune_shared::{ArtifactFile, BlobHash, ByteSize, FileName, Input, InputRole};

use crate::Failure;
use crate::output::{Output, Progress};

/// One file, and what it is to the job.
#[derive(Debug)]
pub(crate) struct InputFile {
    pub(crate) role: InputRole,
    pub(crate) name: FileName,
    pub(crate) path: PathBuf,
    pub(crate) bytes: ByteSize,
}

impl InputFile {
    /// A file under its own name, or another one.
    pub(crate) fn new(
        role: InputRole,
        path: PathBuf,
        name: Option<String>,
    ) -> Result<Self, Failure> {
        let meta = std::fs::metadata(&path).map_err(|error| Failure::io(&path, &error))?;
        let own = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = FileName::try_from(name.unwrap_or_else(own))
            .map_err(|error| Failure::new("input", format!("{}: {error}", path.display())))?;
        Ok(Self { role, name, path, bytes: ByteSize(meta.len()) })
    }
}

/// Uploads what the coordinator does not have yet; a file that several jobs read is sent once.
pub(crate) async fn upload(
    client: &Client,
    files: &[InputFile],
    sent: &mut HashMap<PathBuf, (BlobHash, ByteSize)>,
    output: &Output,
) -> Result<Vec<Input>, Failure> {
    let mut inputs = Vec::with_capacity(files.len());
    for file in files {
        let (blob, bytes) = match sent.get(&file.path) {
            Some(known) => *known,
            None => {
                let mut progress = Progress::bytes(output, &format!("upload {}", file.name));
                let mut moved = false;
                let named = client
                    .upload_file(&file.path, |done, total| {
                        // One call at the end alone says that everything was there.
                        moved |= done < total;
                        if moved {
                            progress.at(done, total, "");
                        }
                    })
                    .await?;
                progress.clear();
                sent.insert(file.path.clone(), named);
                named
            }
        };
        let name = file.name.clone();
        inputs.push(Input { role: file.role, file: ArtifactFile { name, blob, bytes } });
    }
    Ok(inputs)
}
