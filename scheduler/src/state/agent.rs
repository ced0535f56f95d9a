//! An agent as the fleet remembers it.

use fleetune_shared::{AgentName, Offer};
use serde::{Deserialize, Serialize};

/// An agent: one card, one owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// What proves that a session speaks for it: the hash of its key.
    pub key_hash: [u8; 32],
    /// What it lends.
    pub offer: Offer,
    /// Whether it takes new jobs.
    pub draining: bool,
    /// False once it was silent for longer than a lease.
    pub present: bool,
}
