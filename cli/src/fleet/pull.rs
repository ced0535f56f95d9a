//! Artifacts on their way to this machine.

use std::path::{Path, PathBuf};

use fleetune_proto::Client;
use fleetune_shared::view::JobView;
use fleetune_shared::{Artifact, JobId};

use crate::Failure;
use crate::output::{Output, Progress};

/// The published result of a job.
pub(crate) async fn result_of(client: &Client, id: JobId) -> Result<(JobView, Artifact), Failure> {
    let job = client.job(id).await?;
    match job.artifact.clone() {
        Some(artifact) => Ok((job, artifact)),
        None => {
            let phase = job.phase.as_str();
            let failure =
                Failure::new("not_found", format!("job {id} is {phase} and has no result"));
            Err(failure.hint("`fleetune adapters` lists what the fleet keeps"))
        }
    }
}

/// Fetches every file of an artifact into `folder`, each verified by its hash; returns where they lie.
pub(crate) async fn pull(
    client: &Client,
    artifact: &Artifact,
    folder: &Path,
    output: &Output,
) -> Result<Vec<PathBuf>, Failure> {
    std::fs::create_dir_all(folder).map_err(|error| Failure::io(folder, &error))?;
    let mut paths = Vec::with_capacity(artifact.files.len());
    for file in &artifact.files {
        let path = folder.join(file.name.as_str());
        let mut progress = Progress::bytes(output, &format!("fetch {}", file.name));
        client
            .download(file.blob, file.bytes, &path, |done, total| {
                if done < total {
                    progress.at(done, total, "");
                }
            })
            .await?;
        progress.clear();
        paths.push(path);
    }
    Ok(paths)
}
