//! From gradients to new weights: the schedule says how fast, clipping how far at most, the optimizer in which direction.
//!
//! ```text
//!   optimizer ─ for each tensor ─▶ group    its own rate
//!       │                          moments ─ piece by piece ─▶ elementwise ─ block by block ─▶ moment ─▶ codes
//!       │                            in memory or in a file      adamw, lion, sgd                32, 16 or 8 bits
//!       │                            or on a card, where AdamW steps all of a tensor by a kernel (cuda)
//!       └───────────────────────▶ adafactor   whole matrices
//!   A tensor held in bf16 is widened block by block and rounded by chance (values, rounding).
//! ```

mod adafactor;
mod adamw;
mod codes;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod cuda;
mod elementwise;
#[cfg(test)]
mod fixture;
mod group;
mod lion;
mod moment;
mod moments;
mod norm;
mod optimizer;
mod rounding;
mod schedule;
mod sgd;
mod state_file;
mod step;
mod values;

pub use norm::clip_factor;
pub use optimizer::Optimizer;
pub use rounding::Rounding;
pub use schedule::Schedule;
pub use step::Step;
