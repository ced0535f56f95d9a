//! What the leader alone knows: whose session is open. Never replicated, so a new leader begins with nobody and
//! learns as agents say hello.

use std::collections::{BTreeMap, BTreeSet};

use fleetune_shared::AgentName;

/// When each agent was last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// When this leader took office: nobody counts as silent before.
    pub leader_since_ms: u64,
    /// Agents with an open session.
    pub connected: BTreeSet<AgentName>,
    /// When each agent was last heard under this leader.
    pub heard_ms: BTreeMap<AgentName, u64>,
}

impl Liveness {
    /// Whether the agent's session is open.
    #[must_use]
    pub fn is_connected(&self, agent: &AgentName) -> bool {
        self.connected.contains(agent)
    }

    /// The latest moment known when the agent was last heard: now, for one whose session is open.
    #[must_use]
    pub fn heard_ms(&self, agent: &AgentName) -> u64 {
        self.heard_ms.get(agent).copied().unwrap_or(0)
    }

    /// How long the agent has been silent.
    #[must_use]
    pub fn silence_ms(&self, agent: &AgentName, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms(agent).max(self.leader_since_ms))
    }
}
