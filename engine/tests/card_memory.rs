//! A card counts in the heap's place. In a process of its own, for what counts is the process's.

use std::sync::{Arc, Mutex};

use fleetune_engine::EngineError;
use fleetune_engine::memory::{self, Counter};
use fleetune_shared::{ByteSize, FailureKind};

/// Holds what it is told to, and remembers the most.
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
    memory::count_by(Some(card.clone()));
    memory::limit(Some(ByteSize(500)));
    let counts = (memory::current(), memory::peak());
    assert_eq!(counts, (ByteSize(100), ByteSize(100)), "what was before is over");
    card.hold(500);
    memory::check().unwrap();
    card.hold(501);
    card.hold(0);
    let refused = memory::check().unwrap_err();
    assert!(matches!(refused, EngineError::OutOfMemory { needed: ByteSize(501), .. }), "{refused}");

    // As candle wraps what the driver says.
    let driver = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
    let full = EngineError::from(candle_core::Error::Cuda(driver.into()).bt());
    assert_eq!(full.kind(), FailureKind::OutOfMemory);
    assert!(full.to_string().contains("has 1000 B and gave no more after 501 B"), "{full}");

    memory::count_by(None);
    memory::limit(None);
    memory::check().unwrap();
}
