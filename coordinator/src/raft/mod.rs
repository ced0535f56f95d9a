//! The replicated log: TiKV's `raft` on `sled`. One node is a cluster of one, with the same loop, log and snapshot as
//! five.
//!
//! ```text
//!   propose(command) ──▶ node ──▶ log entry ──▶ storage, durable ──▶ committed ──▶ machine.apply ──▶ answer
//! ```
//!
//! `machine` says what commands do, `node` drives the loop, `storage` keeps log, votes and snapshot. Nothing else in the
//! house knows raft or sled.

#[cfg(test)]
mod crash;
mod logger;
mod machine;
mod network;
mod node;
pub(crate) mod storage;
#[cfg(test)]
mod tests;

pub(crate) use machine::{Machine, MachineError, Proposal};
pub(crate) use network::Alone;
pub(crate) use node::{Event, Node, NodeError, NodeSettings, ProposeError};
