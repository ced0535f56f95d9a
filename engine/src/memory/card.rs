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
pub(super) fn set(counter: Option<Arc<dyn Counter>>) {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::{Bound, check, current, peak};
    use super::*;
    use crate::EngineError;

    /// Holds what it is told to.
    #[derive(Debug, Default)]
    struct Told(Mutex<(u64, u64)>);

    impl Told {
        fn hold(&self, bytes: u64) {
            let mut counts = self.0.lock().unwrap();
            *counts = (bytes, counts.1.max(bytes));
        }
    }

    impl Counter for Told {
        fn current(&self) -> u64 {
            self.0.lock().unwrap().0
        }

        fn peak(&self) -> u64 {
            self.0.lock().unwrap().1
        }

        fn forget_peak(&self) {
            let mut counts = self.0.lock().unwrap();
            counts.1 = counts.0;
        }

        fn total(&self) -> u64 {
            1000
        }
    }

    #[test]
    fn a_card_counts_in_the_heaps_place() {
        let card = Arc::new(Told::default());
        card.hold(900);
        card.hold(100);
        let bound = Bound::set(Some(ByteSize(500)), Some(card.clone()));
        assert_eq!((current(), peak()), (ByteSize(100), ByteSize(100)), "what was before is over");
        card.hold(500);
        check().unwrap();
        card.hold(501);
        card.hold(0);
        let refused = check().unwrap_err();
        assert!(
            matches!(refused, EngineError::OutOfMemory { needed: ByteSize(501), .. }),
            "{refused}"
        );
        assert_eq!(refusal(), (ByteSize(501), ByteSize(1000)));
        drop(bound);
        check().unwrap();
        set(None);
    }
}
