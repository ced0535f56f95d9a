//! Gated activations (arXiv 2002.05202): `act(gate) · up`, with SiLU for SwiGLU and GELU for GeGLU.

use candle_core::Tensor;
use fleetune_shared::Activation;
use rayon::prelude::*;

use super::exp::exp;
use super::parallel;
use super::tanh::tanh;
use crate::Result;
use crate::ops::slices::{tensor, view};

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// `silu(x)` and its slope.
fn silu_and_slope(x: f32) -> (f32, f32) {
    let sigma = sigmoid(x);
    (x * sigma, sigma * (1.0 + x * (1.0 - sigma)))
}

/// √(2/π) and the cube's factor of GELU's tanh form (arXiv 1606.08415).
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(ROOT * (x + CUBE * x * x * x)))
}

/// `gelu(x)` and its slope.
fn gelu_and_slope(x: f32) -> (f32, f32) {
    let t = tanh(ROOT * (x + CUBE * x * x * x));
    let inner = ROOT * (1.0 + 3.0 * CUBE * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
}

pub(super) fn forward(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => forward_with(silu, gate, up),
        Activation::GeluTanh => forward_with(gelu, gate, up),
    }
}

pub(super) fn backward(
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    match activation {
        Activation::Silu => backward_with(silu_and_slope, gate, up, dy),
        Activation::GeluTanh => backward_with(gelu_and_slope, gate, up, dy),
    }
}

fn forward_with(act: impl Fn(f32) -> f32 + Sync, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (tokens, width) = gate.dims2()?;
    let (gate, up) = (view(gate)?, view(up)?);
    let (gate, up) = (&*gate, &*up);
    let mut y = vec![0.0; gate.len()];
    parallel::rows(&mut y, width, |t, y| {
        let (gate, up) = (&gate[t * width..][..width], &up[t * width..][..width]);
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = act(*gate) * up;
        }
    });
    tensor(y, &[tokens, width])
}

/// `dup = dy · act(gate)`, `dgate = dy · up · act'(gate)`.
fn backward_with(
    act: impl Fn(f32) -> (f32, f32) + Sync,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = gate.dims2()?;
    let (gate, up, dy) = (view(gate)?, view(up)?, view(dy)?);
    let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    let task = parallel::rows_per_task(width) * width;
    let outs = dgate.par_chunks_mut(task).zip(dup.par_chunks_mut(task));
    let inps = gate.par_chunks(task).zip(up.par_chunks(task)).zip(dy.par_chunks(task));
    outs.zip(inps).for_each(|((dgate, dup), ((gate, up), dy))| {
        let outs = dgate.iter_mut().zip(dup);
        let inps = gate.iter().zip(up).zip(dy);
        for ((dgate, dup), ((gate, up), dy)) in outs.zip(inps) {
            let (value, slope) = act(*gate);
            *dup = dy * value;
            *dgate = dy * up * slope;
        }
    });
    Ok((tensor(dgate, &[tokens, width])?, tensor(dup, &[tokens, width])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_finite_differences() {
        for (act, both) in [
            (silu as fn(f32) -> f32, silu_and_slope as fn(f32) -> (f32, f32)),
            (gelu, gelu_and_slope),
        ] {
            for i in -60..60 {
                let x = i as f32 / 10.0;
                let step = 1e-2;
                let difference = (act(x + step) - act(x - step)) / (2.0 * step);
                let (value, slope) = both(x);
                assert!((slope - difference).abs() < 2e-4, "{x}: {slope}, {difference}");
                assert_eq!(value, act(x));
            }
        }
    }
}
