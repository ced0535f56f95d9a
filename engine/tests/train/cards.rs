//! What is a card's own; that runs there are those of the CPU, all other tests of this folder say.

use fleetune_engine::EngineError;
use fleetune_shared::{ByteSize, Device, FailureKind, runtime_bytes};
use serde_json::{Value, json};

use crate::{Story, device};

/// Tiny Llama on a card; `None`, said loudly, where runs compute on the CPU.
fn story(recipe: Value) -> Option<Story> {
    if device() == Device::Cuda {
        return Some(Story::tiny(recipe));
    }
    eprintln!("\nSKIPPED: no run on a card; scripts/test-cuda tries what stands in for one\n");
    None
}

#[test]
fn a_card_counts_what_a_run_holds() {
    let Some(story) = story(json!({"use_peft": false, "max_steps": 2})) else { return };
    let summary = story.run().0.unwrap();
    // Weights and gradients at least, and no more than ten of each.
    let weights = 4 * summary.trainable_parameters;
    let held = summary.memory_bytes_peak.0 - runtime_bytes(Device::Cuda).0;
    assert!(2 * weights < held && held < 20 * weights, "{held} for weights of {weights}");
}

#[test]
fn a_run_keeps_to_its_part_of_a_card() {
    let Some(story) = story(json!({"max_steps": 2, "gradient_checkpointing": false})) else {
        return;
    };
    let held = story.run().0.unwrap().memory_bytes_peak.0;
    for (limit, fits) in [(held, true), (held - 1, false)] {
        let mut bound = Story { out: tempfile::tempdir().unwrap(), order: story.order.clone() };
        bound.order.out = bound.out.path().join("out");
        bound.order.memory_bytes_limit = Some(ByteSize(limit));
        let result = bound.run().0;
        match result {
            Ok(_) => assert!(fits, "{limit}"),
            Err(error) => {
                assert!(!fits && matches!(error, EngineError::OutOfMemory { .. }), "{error}");
                assert_eq!(error.kind(), FailureKind::OutOfMemory);
            }
        }
    }
}
