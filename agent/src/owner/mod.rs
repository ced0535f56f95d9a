//! The owner comes first: whether the card takes jobs now.
//!
//! ```text
//!   probe ── what is on the card, how hot it is ──┐
//!   presence ── when somebody last typed ─────────┼─▶ keeper ─▶ Availability, within the offer
//!   policy, the clock ────────────────────────────┘
//! ```
//!
//! [`watch`] does the looking, [`keeper`] decides without any. The session (`crate::session`) has what runs leave when
//! the card closes, also while the coordinator is away.

mod hours;
mod keeper;
mod policy;
mod presence;
mod watch;

pub use hours::{Hours, HoursError, Opening};
pub use policy::{OwnerPolicy, Signs, SignsError};
pub(crate) use watch::{Lent, watch};
