//! What is minimised: losses on the log-probabilities of sequences, each with its gradient written by hand.
//!
//! ```text
//!   model ─▶ log-probability of every labelled token ─▶ objective ─▶ loss, d(loss)/d(log-probability), metrics
//!     ▲                                                                     │
//!     └──────────────── backward from there, logits made again ─────────────┘
//! ```
//!
//! Everything here is a pure function in f64 of a handful of numbers per sequence. `model` makes those numbers and
//! takes the gradients back, `train` decides what a step is. Losses are **sums** over the rows of a micro-batch; whoever
//! knows the rows of the whole step divides once. Names, signs and constants follow TRL, whose values the tests hold.

mod cpo;
mod dpo;
mod kto;
mod logistic;
mod orpo;
mod reward;
mod sequence;
mod tally;

pub use cpo::cpo;
pub use dpo::dpo;
pub use kto::{Judged, kto};
pub use orpo::orpo;
pub use reward::reward;
pub use sequence::{Grades, Sequence};
pub use tally::Tally;
