//! The agent: lends one card to a fleet.
//!
//! ```text
//!   coordinator ◀──link──▶ session ◀── owner (may it be used?) ◀── probe (the card)
//!                             │
//!                          runner, one per attempt ◀── cache (inputs by hash)
//!                             │ stdin, stdout
//!                          trainer, a process of its own ── engine
//!
//!   other agents ◀── share ◀── cache
//! ```
//!
//! [`run`] is the agent, [`run_child`] its trainer, [`train_alone`] a trainer without an agent; the
//! command line calls both from one binary. [`confine`] keeps any other command to a trainer's limits.

mod alone;
mod attempt;
mod blocking;
mod bounds;
mod cache;
mod confined;
mod error;
mod folder;
mod gpu_choice;
mod link;
mod oom_kills;
mod order;
mod outbox;
pub mod owner;
pub mod probe;
mod runner;
mod session;
mod settings;
mod share;
mod trainer;

pub use alone::train_alone;
pub use confined::{Confined, Fate, confine};
pub use error::AgentError;
pub use gpu_choice::{GpuChoice, GpuChoiceError};
pub use owner::OwnerPolicy;
pub use runner::Ending;
pub use session::run;
pub use settings::{CardSettings, DeviceChoice, Settings, ShareSettings};
pub use trainer::run_child;
