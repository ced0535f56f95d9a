//! What an agent and its trainer say to each other, besides `TrainerEvent`s: the order, and the word to stop.

use fleetune_shared::{ByteSize, MergeOrder, TrainOrder};
use serde::{Deserialize, Serialize};

/// A trainer's order, a JSON file whose path is its only argument.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Who started the trainer and with whom it ends.
    pub(crate) agent_pid: u32,
    /// The most memory it may hold.
    pub(crate) memory_bytes_limit: ByteSize,
    /// What to do.
    pub(crate) work: OrderedWork,
}

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum OrderedWork {
    /// Train.
    Train(Box<TrainOrder>),
    /// Merge.
    Merge(MergeOrder),
}

/// The line on a trainer's stdin that asks it to write a checkpoint and end. The end of stdin asks the same: the
/// agent is gone.
pub(crate) const STOP: &str = "stop";

/// The exit status of a trainer that ended because it was asked to.
pub(crate) const STOPPED: u8 = 3;
