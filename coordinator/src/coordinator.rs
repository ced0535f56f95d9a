//! What every request and the dispatcher share: the node, the blobs, the journals, the open sessions.

use std::collections::HashSet;
use std::time::Duration;

use fleetune_scheduler::state::{Command, Job, Reply, State};
use fleetune_scheduler::{Liveness, view};
use fleetune_shared::view::{FleetView, JobView};
use fleetune_shared::{Artifact, ArtifactFile, BlobHash, ByteSize, JobId};
use tokio_util::sync::CancellationToken;

use crate::artifacts::{BlobStore, Presence};
use crate::clock::Clock;
use crate::dispatch::Sessions;
use crate::error::Error;
use crate::fleet_state::{self, FleetState};
use crate::journal::Journal;
use crate::raft::storage::{Disk, DiskSpace};
use crate::raft::{Node, Proposal};

/// Largest command taken; the log holds 64 MiB that are not yet written.
const COMMAND_BYTES_MAX: usize = 16 << 20;

pub(crate) struct Coordinator {
    pub(crate) node: Node<FleetState>,
    pub(crate) blobs: BlobStore,
    pub(crate) journal: Journal,
    pub(crate) sessions: Sessions,
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
    pub(crate) blob_age_min: Duration,
    /// Cancelled when the process is to end.
    pub(crate) stopping: CancellationToken,
}

impl Coordinator {
    /// Carries a command through the log.
    pub(crate) async fn propose(&self, command: &Command) -> Result<Reply, Error> {
        Ok(self.node.propose(encode(command)?).await??)
    }

    /// Carries commands through the log in their order, all or, where one cannot be written down, none.
    pub(crate) async fn propose_all(&self, commands: &[Command]) -> Vec<Result<Reply, Error>> {
        let encoded: Result<Vec<_>, _> = commands.iter().map(encode).collect();
        match encoded {
            Ok(encoded) => {
                let answers = self.node.propose_all(encoded).await;
                answers.into_iter().map(|answer| Ok(answer??)).collect()
            }
            Err(error) => vec![Err(error)],
        }
    }

    /// Looks at the state as it is here and now.
    pub(crate) fn state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.node.read(|state| look(&state.0))
    }

    /// A job as front ends show it.
    pub(crate) fn job_view(&self, id: JobId) -> Option<JobView> {
        let look = |state: &State, liveness: &Liveness| {
            state.job(id).map(|job| view::job(state, liveness, job))
        };
        let view = self.sessions.look(|liveness| self.state(|state| look(state, liveness)));
        view.map(|view| JobView { latest: self.journal.latest(id), ..view })
    }

    /// The whole fleet as front ends show it.
    pub(crate) fn fleet_view(&self) -> FleetView {
        let liveness = self.sessions.liveness();
        let mut fleet = self.state(|state| view::fleet(state, &liveness));
        let mut telemetry = self.sessions.telemetry();
        for agent in &mut fleet.agents {
            agent.telemetry = telemetry.remove(&agent.name);
        }
        for job in &mut fleet.jobs {
            job.latest = self.journal.latest(job.id);
        }
        fleet
    }

    /// Refuses new work while the disk is nearly full.
    pub(crate) fn require_disk_space(&self) -> Result<(), Error> {
        match self.disk.space() {
            DiskSpace::Enough => Ok(()),
            DiskSpace::Short { bytes_free } => Err(Error::DiskFull(ByteSize(bytes_free))),
        }
    }

    /// Refuses files whose blobs are not all here, whole.
    pub(crate) fn require_blobs<'a>(
        &self,
        files: impl IntoIterator<Item = &'a ArtifactFile>,
    ) -> Result<(), Error> {
        for file in files {
            let (name, blob) = (&file.name, file.blob);
            match self.blobs.stat(blob)? {
                Presence::Whole { bytes } if bytes == file.bytes.0 => {}
                Presence::Whole { bytes } => {
                    return Err(Error::Invalid(format!(
                        "`{name}` is said to have {} bytes, but its blob {} has {bytes}",
                        file.bytes.0,
                        blob.short()
                    )));
                }
                Presence::Partial { bytes } => {
                    return Err(Error::Unready(format!(
                        "only {bytes} of {} bytes of `{name}` (blob {}) are uploaded",
                        file.bytes.0,
                        blob.short()
                    )));
                }
                Presence::Absent => {
                    return Err(Error::Unready(format!(
                        "`{name}` (blob {}) is not uploaded; upload it first",
                        blob.short()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Removes blobs that no job names any more.
    pub(crate) fn sweep_blobs(&self) {
        let kept = self.state(|state| state.jobs().flat_map(blobs_of).collect::<HashSet<_>>());
        match self.blobs.sweep(&kept, self.blob_age_min) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "blobs that no job names were removed"),
            Err(error) => tracing::warn!(%error, "blobs that no job names were not all removed"),
        }
    }
}

/// A command as the log takes it.
fn encode(command: &Command) -> Result<Proposal<Command>, Error> {
    let proposal = fleet_state::encode(command)
        .map_err(|error| Error::Invalid(format!("the request cannot be written down: {error}")))?;
    let bytes = proposal.entry.len();
    if bytes > COMMAND_BYTES_MAX {
        let (found, limit) = (ByteSize(bytes as u64), ByteSize(COMMAND_BYTES_MAX as u64));
        return Err(Error::TooMuch(format!(
            "the request takes {found} in the log, expected at most {limit}; send it in parts"
        )));
    }
    Ok(proposal)
}

/// Everything a job reads, would resume from, or made.
fn blobs_of(job: &Job) -> impl Iterator<Item = BlobHash> {
    use fleetune_scheduler::state::Phase;
    let result = match &job.phase {
        Phase::Succeeded { artifact, .. } => Some(artifact),
        _ => None,
    };
    let files = |artifact: &Artifact| artifact.files.iter().map(|f| f.blob).collect::<Vec<_>>();
    let made = result.into_iter().chain(&job.checkpoint).flat_map(files);
    job.spec.inputs.iter().map(|input| input.file.blob).chain(made).collect::<Vec<_>>().into_iter()
}
