//! What the fleet learns from attempts: by how much estimates are off, and how fast jobs of a kind go.
//!
//! ```text
//!   attempt ends ─▶ peak / estimate of what it ran ─▶ its key's last ratios ─▶ correction
//!                                                       (cards, method, …)        │
//!   placement asks for  estimate × correction  ◀──────────────────────────────────┘
//! ```

mod corrections;
mod speeds;
mod traits;

pub use corrections::{Corrections, Key, Kind, Sample};
pub use speeds::{Speed, Speeds};
pub use traits::{AttentionKind, DtypeKind, MethodKind, Traits, UpTo};
