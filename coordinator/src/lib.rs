//! The coordinator: keeps the fleet's state, places jobs, talks to agents and users, stores artifacts.
//!
//! ```text
//!   grpc ──propose──▶ raft (log on disk) ──apply──▶ fleet_state ──effects──▶ dispatch ──▶ agents
//!     │ blobs, log lines                                                        │
//!     └──▶ artifacts, journal                      scheduler: what should be next ◀┘
//! ```
//!
//! `scheduler` decides, this room acts: it is the only one with a log, a clock and a network. Everything users were
//! promised goes through the log; blobs and journals are files beside it.

mod artifacts;
mod clock;
mod coordinator;
mod dispatch;
mod error;
mod fleet_state;
mod grpc;
mod journal;
mod raft;
mod serve;
mod settings;

pub use serve::{ServeError, serve};
pub use settings::{LISTEN_DEFAULT, Settings};
