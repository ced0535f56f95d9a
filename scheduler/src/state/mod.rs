//! The replicated state: what the log says, and nothing else.
//!
//! [`State::apply`] is the only way in. It is deterministic: maps are ordered, time comes from the command, and
//! [`State::hash`] compares two nodes byte for byte.

mod agent;
mod apply;
mod command;
mod duration;
mod effect;
mod index;
mod job;
mod life;
mod load;
mod record;
mod sizing;
mod turns;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use fleetune_shared::{AgentName, BlobHash, CardFamily, JobId, RequestId};
use serde::{Deserialize, Serialize};

pub use agent::Agent;
pub use command::{Command, Held, Report};
pub use effect::{Applied, Effect, Refusal, Reply, StopReason, Submitted};
pub(crate) use index::Shape;
pub use job::{Basis, Failure, Job, Lease, Pace, Phase};
pub(crate) use load::anti_affinity;
pub use load::{Load, Promise};
pub(crate) use turns::Turns;
pub use turns::level;
pub(crate) use usage::Share;
pub use usage::Usage;

use index::{Index, Lane};

use crate::learning::{Corrections, Speeds};

/// Everything the fleet must not forget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
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
    /// The latest time any command carried.
    clock_ms: u64,
    /// What users have had; what they hold comes on top.
    usages: BTreeMap<String, Usage>,
    /// By how much estimates are off.
    corrections: Corrections,
    /// How fast jobs of a kind go.
    speeds: Speeds,
    /// Found again from the rest when a snapshot is read.
    #[serde(skip)]
    index: Index,
}

/// The state as a snapshot has it; what older ones lack begins at nothing.
#[derive(Deserialize)]
struct Stored {
    jobs: BTreeMap<JobId, Job>,
    agents: BTreeMap<AgentName, Agent>,
    requests: BTreeMap<RequestId, Answered>,
    next_job: u64,
    next_answer: u64,
    #[serde(default)]
    clock_ms: u64,
    #[serde(default)]
    usages: BTreeMap<String, Usage>,
    #[serde(default)]
    corrections: Corrections,
    #[serde(default)]
    speeds: Speeds,
}

impl From<Stored> for State {
    fn from(stored: Stored) -> Self {
        let Stored {
            jobs,
            mut agents,
            requests,
            next_job,
            next_answer,
            clock_ms,
            usages,
            corrections,
            speeds,
        } = stored;
        let mut index = Index::default();
        for job in jobs.values() {
            index.add(job);
            if let Some(lease) = job.lease()
                && let Some(agent) = agents.get_mut(&lease.agent)
            {
                agent.load.add(job, lease);
            }
        }
        for agent in agents.values_mut() {
            agent.family = CardFamily::of(&agent.offer.card);
            index.recache(&agent.name, None, &agent.offer);
        }
        Self {
            jobs,
            agents,
            requests,
            next_job,
            next_answer,
            clock_ms,
            usages,
            corrections,
            speeds,
            index,
        }
    }
}

/// A submission's answer and its age.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Answered {
    order: u64,
    outcomes: Vec<Submitted>,
}

impl State {
    /// All jobs, oldest first.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &Job> {
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
    pub fn held_by<'a>(&'a self, agent: &AgentName) -> impl Iterator<Item = &'a Job> {
        let promises = self.agents.get(agent).map(|agent| agent.load.promises.iter());
        promises.into_iter().flatten().filter_map(|promise| self.jobs.get(&promise.job))
    }

    /// Memory promised on an agent's card.
    #[must_use]
    pub fn vram_bytes_reserved(&self, agent: &AgentName) -> u64 {
        self.agents.get(agent).map_or(0, |agent| agent.load.vram_bytes)
    }

    /// By how much estimates are off.
    #[must_use]
    pub fn corrections(&self) -> &Corrections {
        &self.corrections
    }

    /// The latest time any command carried.
    #[must_use]
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// What a user has had of the fleet and holds of it, in MiB·s: whoever has less goes first.
    #[must_use]
    pub fn standing(&self, user: &str, now_ms: u64) -> u64 {
        self.share(user).at(now_ms)
    }

    /// What a user has had and holds.
    pub(crate) fn share(&self, user: &str) -> Share {
        let usage = self.usages.get(user).copied().unwrap_or_default();
        Share { usage, holding: self.index.holdings.get(user).copied().unwrap_or_default() }
    }

    /// Waiting jobs, lane by lane.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.index.lanes.keys()
    }

    /// Who keeps which blob.
    pub(crate) fn caches(&self) -> &BTreeMap<BlobHash, BTreeSet<AgentName>> {
        &self.index.caches
    }

    /// The lowest priority of a job that has a card.
    pub(crate) fn least_urgent_promised(&self) -> Option<i32> {
        self.index.promised.keys().next().copied()
    }

    /// Whether others were asked to make room for this job.
    #[must_use]
    pub fn is_awaited(&self, job: JobId) -> bool {
        self.index.awaited.contains_key(&job)
    }

    /// Waiting jobs in the order they are to be placed, as if each got its place.
    #[must_use]
    pub fn queue(&self) -> Vec<&Job> {
        let mut turns = Turns::new(self, self.clock_ms);
        let mut queue = Vec::new();
        while let Some(turn) = turns.next() {
            queue.extend(self.jobs.get(&turn.job));
            turns.place(&turn, turn.lane.shape.needs.first().map_or(0, |(_, bytes)| *bytes));
        }
        queue
    }

    /// BLAKE3 of the whole state: equal on two nodes that applied the same log.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        // Maps with string-like keys and plain values always serialise.
        *blake3::hash(&serde_json::to_vec(self).unwrap_or_default()).as_bytes()
    }
}
