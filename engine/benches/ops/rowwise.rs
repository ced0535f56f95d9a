//! What goes through memory once: norms, rotations, gates.

use divan::Bencher;
use fleetune_engine::ops::{Rotary, Turn};
use fleetune_shared::Activation;

use crate::score::{Work, time};
use crate::{F32, HIDDEN, INTERMEDIATE, Named, TOKENS, backends, random};

const EPS: f64 = 1e-5;
const HEAD_DIM: usize = 64;

/// Bytes of so many tensors of the residual stream, and of so many activations as wide, read or written.
fn residuals(backend: &Named, stream: usize, activations: usize) -> Work {
    Work::Bytes((stream * F32 + activations * backend.number()) * TOKENS * HIDDEN)
}

/// Of so many activations in the MLP.
fn inner(backend: &Named, count: usize) -> Work {
    Work::Bytes(count * TOKENS * INTERMEDIATE * backend.number())
}

#[divan::bench(args = backends())]
fn rms_norm(bencher: Bencher<'_, '_>, backend: &Named) {
    let (x, weight) = (random(&[TOKENS, HIDDEN]), random(&[HIDDEN]));
    time(bencher, "rms_norm", backend, residuals(backend, 1, 1), || {
        backend.ops.rms_norm(&x, &weight, EPS).expect("a norm")
    });
}

#[divan::bench(args = backends())]
fn rms_norm_backward(bencher: Bencher<'_, '_>, backend: &Named) {
    let (x, weight, dy) = (random(&[TOKENS, HIDDEN]), random(&[HIDDEN]), random(&[TOKENS, HIDDEN]));
    let (_, rstd) = backend.ops.rms_norm(&x, &weight, EPS).expect("a norm");
    let dx = random(&[TOKENS, HIDDEN]);
    time(bencher, "rms_norm backward", backend, residuals(backend, 4, 0), || {
        backend.ops.rms_norm_backward(&dy, &x, &weight, &rstd, &dx, false).expect("a gradient")
    });
}

#[divan::bench(args = backends())]
fn rotate(bencher: Bencher<'_, '_>, backend: &Named) {
    let half = HEAD_DIM / 2;
    let angle = |i: usize| (i / half) as f32 * 1e5f32.powf(-((i % half) as f32) / half as f32);
    let angles = || (0..TOKENS * half).map(angle);
    let rotary = Rotary {
        cos: angles().map(f32::cos).collect(),
        sin: angles().map(f32::sin).collect(),
        half,
        head_dim: HEAD_DIM,
    };
    let x = backend.activation(&[TOKENS, HIDDEN]);
    time(bencher, "rotate", backend, residuals(backend, 0, 2), || {
        backend.ops.rotate(&x, &rotary, Turn::Forth).expect("a rotation");
    });
}

#[divan::bench(args = backends())]
fn gated(bencher: Bencher<'_, '_>, backend: &Named) {
    let [gate, up] = std::array::from_fn(|_| backend.activation(&[TOKENS, INTERMEDIATE]));
    time(bencher, "gated", backend, inner(backend, 3), || {
        backend.ops.gated(Activation::Silu, &gate, &up).expect("a gate")
    });
}

#[divan::bench(args = backends())]
fn gated_backward(bencher: Bencher<'_, '_>, backend: &Named) {
    let [gate, up, dy] = std::array::from_fn(|_| backend.activation(&[TOKENS, INTERMEDIATE]));
    time(bencher, "gated backward", backend, inner(backend, 5), || {
        backend.ops.gated_backward(Activation::Silu, &gate, &up, &dy).expect("a gradient")
    });
}

#[divan::bench(args = backends())]
fn add(bencher: Bencher<'_, '_>, backend: &Named) {
    let (sum, term) = (random(&[TOKENS, HIDDEN]), random(&[TOKENS, HIDDEN]));
    time(bencher, "add", backend, residuals(backend, 3, 0), || {
        backend.ops.add(&sum, &term).expect("a sum");
    });
}
