//! Every decision of the fleet, as pure functions of values.
//!
//! ```text
//!   Command ──▶ State::apply ──▶ Applied { reply, effects }      replicated: same log, same state
//!   State + Liveness + now ──▶ plan ──▶ Commands                 the leader's wish, through the log
//!   State + Liveness ──▶ view, explain                           what front ends show
//!   State + Liveness + job ──▶ sources                           where its agent may fetch what it reads
//! ```
//!
//! No clock, no randomness, no IO: time and seeds arrive inside commands. `coordinator` proposes commands,
//! applies what the log commits and carries out the effects.
#![warn(missing_docs)]

pub mod explain;
pub mod ladder;
pub mod learning;
mod liveness;
pub mod placement;
mod sources;
pub mod state;
pub mod sweep;
pub mod view;

pub use liveness::Liveness;
pub use sources::sources;
