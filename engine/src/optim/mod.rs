//! From gradients to new weights: the schedule says how fast, clipping how far at most, AdamW in which direction.

mod schedule;

pub use schedule::Schedule;
