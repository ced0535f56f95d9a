//! From gradients to new weights: the schedule says how fast, clipping how far at most, AdamW in which direction.

mod adamw;
mod norm;
mod schedule;

pub use adamw::AdamW;
pub use norm::{clip_factor, grad_norm};
pub use schedule::Schedule;
