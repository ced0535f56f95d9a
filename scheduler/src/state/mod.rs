//! The replicated state: what the log says, and nothing else.
//!
//! [`State::apply`] is the only way in. It is deterministic: maps are ordered, time comes from the command, and
//! [`State::hash`] compares two nodes byte for byte.

mod agent;
mod apply;
mod command;
mod effect;
mod job;

use std::collections::BTreeMap;

use fleetune_shared::{AgentName, JobId, RequestId};
use serde::{Deserialize, Serialize};

pub use agent::Agent;
pub use command::{Command, Held, Report};
pub use effect::{Applied, Effect, Refusal, Reply, StopReason, Submitted};
pub use job::{Failure, Job, Lease, Phase};

/// Everything the fleet must not forget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// By number; numbers are given once and in order.
    jobs: BTreeMap<JobId, Job>,
    /// By name; an agent that left stays, so that a job waiting for its card can say so.
    agents: BTreeMap<AgentName, Agent>,
    /// Answers to submissions, so that a retry is answered alike. The oldest are forgotten.
    requests: BTreeMap<RequestId, Answered>,
    /// The number the next job gets.
    next_job: u64,
    /// Counts answered requests, to find the oldest.
    next_answer: u64,
}

/// A submission's answer and its age.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Answered {
    order: u64,
    outcomes: Vec<Submitted>,
}

impl State {
    /// All jobs, oldest first.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// All agents by name.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// One agent.
    #[must_use]
    pub fn agent(&self, name: &AgentName) -> Option<&Agent> {
        self.agents.get(name)
    }

    /// Jobs that hold memory on an agent's card.
    pub fn held_by<'a>(&'a self, agent: &'a AgentName) -> impl Iterator<Item = &'a Job> {
        self.jobs().filter(move |job| job.lease().is_some_and(|lease| lease.agent == *agent))
    }

    /// Memory promised on an agent's card.
    #[must_use]
    pub fn vram_bytes_reserved(&self, agent: &AgentName) -> u64 {
        self.held_by(agent).filter_map(Job::lease).map(|lease| lease.vram_bytes.0).sum()
    }

    /// Waiting jobs in the order they are to be placed: priority, then age.
    #[must_use]
    pub fn queue(&self) -> Vec<&Job> {
        let mut queue: Vec<_> = self.jobs().filter(|job| job.phase == Phase::Queued).collect();
        queue.sort_by_key(|job| (std::cmp::Reverse(job.spec.priority), job.id));
        queue
    }

    /// BLAKE3 of the whole state: equal on two nodes that applied the same log.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        // Maps with string-like keys and plain values always serialise.
        *blake3::hash(&serde_json::to_vec(self).unwrap_or_default()).as_bytes()
    }
}
