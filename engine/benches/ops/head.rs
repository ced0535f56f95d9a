//! Cross-entropy over SmolLM2's vocabulary, one chunk of labelled positions at a time.

use divan::Bencher;

use crate::score::{Work, time};
use crate::{F32, Named, backends, random};

const ROWS: usize = 128;
const VOCAB: usize = 49_152;

fn targets() -> Vec<u32> {
    (0..ROWS as u32).map(|row| row * 31 % VOCAB as u32).collect()
}

#[divan::bench(args = backends())]
fn cross_entropy(bencher: Bencher<'_, '_>, backend: &Named) {
    let (logits, targets) = (random(&[ROWS, VOCAB]), targets());
    time(bencher, "cross-entropy", backend, Work::Bytes(ROWS * VOCAB * F32), || {
        backend.ops.cross_entropy(&logits, &targets, 0.0).expect("a loss")
    });
}

/// Each call takes the gradients that the last one left for logits, which is the same work.
#[divan::bench(args = backends())]
fn cross_entropy_backward(bencher: Bencher<'_, '_>, backend: &Named) {
    let (logits, targets) = (random(&[ROWS, VOCAB]), targets());
    time(bencher, "cross-entropy backward", backend, Work::Bytes(2 * ROWS * VOCAB * F32), || {
        backend.ops.cross_entropy_backward(&logits, &targets, 0.0, 1.0).expect("a loss")
    });
}
