//! What applying a command asks of the world. Only the leader listens.

use fleetune_shared::view::Explanation;
use fleetune_shared::{AgentName, Attempt, JobId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The outcome of one command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What the proposer is told.
    pub reply: Result<Reply, Refusal>,
    /// What the leader does next.
    pub effects: Vec<Effect>,
}

/// What a proposer is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Done; there is nothing more to say.
    Done,
    /// Each submitted job's answer, in order.
    Submitted(Vec<Submitted>),
}

/// A submitted job's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Submitted {
    /// It exists now.
    Accepted(JobId),
    /// It fits no card of the fleet, and does not exist.
    Refused(Box<Explanation>),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such job.
    #[error("job {0} does not exist; `fleetune jobs` lists those that do")]
    UnknownJob(JobId),
    /// No such agent.
    #[error("agent `{0}` does not exist; `fleetune agents` lists those that do")]
    UnknownAgent(AgentName),
    /// The name belongs to another agent.
    #[error(
        "agent name `{0}` belongs to another agent; start this one with another --name, or with the data folder it had before"
    )]
    NameTaken(AgentName),
    /// The job has ended.
    #[error("job {job} has already {phase}")]
    Ended {
        /// The job.
        job: JobId,
        /// How.
        phase: &'static str,
    },
    /// Another attempt is the live one.
    #[error("job {job}: attempt {attempt} on `{agent}` is not the live attempt, which is {live}")]
    Stale {
        /// The job.
        job: JobId,
        /// Who reported.
        agent: AgentName,
        /// What was reported about.
        attempt: Attempt,
        /// The live or last one.
        live: Attempt,
    },
    /// The job does not run, or has been asked already.
    #[error("job {job} cannot make room: {why}")]
    Unmovable {
        /// The job.
        job: JobId,
        /// In words.
        why: String,
    },
    /// The job is not waiting, or the card has not that much open.
    #[error("job {job} cannot be placed on `{agent}`: {why}")]
    Unplaceable {
        /// The job.
        job: JobId,
        /// Whose card.
        agent: AgentName,
        /// In words.
        why: String,
    },
}

/// What the leader does after a command was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell an agent to start an attempt.
    Start {
        /// Who.
        agent: AgentName,
        /// Which job.
        job: JobId,
        /// The fencing epoch.
        attempt: Attempt,
    },
    /// Tell an agent to end an attempt.
    Stop {
        /// Who.
        agent: AgentName,
        /// Which job.
        job: JobId,
        /// The fencing epoch.
        attempt: Attempt,
        /// Why.
        reason: StopReason,
    },
    /// Tell whoever watches this job.
    JobChanged(JobId),
    /// Blobs that only this job's earlier checkpoints needed can go.
    BlobsReleased(JobId),
    /// There may be something to place.
    Replan,
}

/// Why an attempt is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A user ended the job.
    Cancelled,
    /// The job is wanted elsewhere: checkpoint first.
    Yield,
    /// The card's owner wants it: checkpoint first, within the time the owner gave.
    Owner,
    /// It is not the live attempt.
    Fenced,
}
