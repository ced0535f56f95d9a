//! A card's memory, which is counted in the heap's place while a run computes there.

use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use fleetune_shared::ByteSize;

/// What this process holds of a card, in bytes.
pub trait Counter: Debug + Send + Sync {
    /// Held now.
    fn current(&self) -> u64;

    /// The most held at any moment since [`Self::forget_peak`].
    fn peak(&self) -> u64;

    /// Forgets the peak so far.
    fn forget_peak(&self);

    /// What the card has.
    fn total(&self) -> u64;
}

/// The card that counts, if one does.
static CARD: RwLock<Option<Arc<dyn Counter>>> = RwLock::new(None);

/// From here on `counter` counts, or the heap where there is none.
pub fn count_by(counter: Option<Arc<dyn Counter>>) {
    *CARD.write().unwrap_or_else(PoisonError::into_inner) = counter;
}

/// The card that counts.
pub(super) fn counter() -> Option<Arc<dyn Counter>> {
    CARD.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What was held at most, and what the card has, for whoever was refused more.
pub(crate) fn refusal() -> (ByteSize, ByteSize) {
    let (held, total) = counter().map_or((0, 0), |card| (card.peak(), card.total()));
    (ByteSize(held), ByteSize(total))
}
