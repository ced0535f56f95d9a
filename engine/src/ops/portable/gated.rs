//! Gated activations (arXiv 2002.05202): `act(gate) · up`, with SiLU for SwiGLU and GELU for GeGLU.

use candle_core::Tensor;
use fleetune_shared::Activation;
use rayon::prelude::*;

use super::exp::exp;
use super::parallel;
use super::tanh::tanh;
use crate::Result;
use crate::ops::number::Number;
use crate::ops::slices::{tensor, view_as, written};
use crate::ops::wide::wide;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// `silu(x)` and its slope.
#[inline(always)]
fn silu_and_slope(x: f32) -> (f32, f32) {
    let sigma = sigmoid(x);
    (x * sigma, sigma * (1.0 + x * (1.0 - sigma)))
}

/// √(2/π) and the cube's factor of GELU's tanh form (arXiv 1606.08415).
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(ROOT * (x + CUBE * x * x * x)))
}

/// `gelu(x)` and its slope.
#[inline(always)]
fn gelu_and_slope(x: f32) -> (f32, f32) {
    let t = tanh(ROOT * (x + CUBE * x * x * x));
    let inner = ROOT * (1.0 + 3.0 * CUBE * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
}

wide! {
    fn forward_with[N: Number](
        act: impl Fn(f32) -> f32,
        y: &mut [N],
        gate: &[N],
        up: &[N],
    ) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = N::narrow(act(gate.widen()) * up.widen());
        }
    }
}

wide! {
    /// `dup = dy · act(gate)`, `dgate = dy · up · act'(gate)`.
    fn backward_with[N: Number](
        act: impl Fn(f32) -> (f32, f32),
        dgate: &mut [N],
        dup: &mut [N],
        gate: &[N],
        up: &[N],
        dy: &[N],
    ) {
        let outs = dgate.iter_mut().zip(dup);
        let inps = gate.iter().zip(up).zip(dy);
        for ((dgate, dup), ((gate, up), dy)) in outs.zip(inps) {
            let (value, slope) = act(gate.widen());
            *dup = N::narrow(dy.widen() * value);
            *dgate = N::narrow(dy.widen() * up.widen() * slope);
        }
    }
}

pub(crate) fn forward<N: Number>(
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Tensor> {
    let (tokens, width) = gate.dims2()?;
    let (gate, up) = (view_as::<N>(gate)?, view_as::<N>(up)?);
    let task = parallel::rows_per_task(width) * width;
    let inps = gate.par_chunks(task).zip(up.par_chunks(task));
    let each = |(y, (gate, up)): (&mut [N], (&[N], &[N]))| match activation {
        Activation::Silu => forward_with(silu, y, gate, up),
        Activation::GeluTanh => forward_with(gelu, y, gate, up),
    };
    let write = |y: &mut [N]| y.par_chunks_mut(task).zip(inps).for_each(each);
    let (y, ()) = written(gate.len(), write);
    tensor(y, &[tokens, width])
}

pub(crate) fn backward<N: Number>(
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = gate.dims2()?;
    let (gate, up, dy) = (view_as::<N>(gate)?, view_as::<N>(up)?, view_as::<N>(dy)?);
    let task = parallel::rows_per_task(width) * width;
    let inps = gate.par_chunks(task).zip(up.par_chunks(task)).zip(dy.par_chunks(task));
    let write = |dgate: &mut [N], dup: &mut [N]| {
        let outs = dgate.par_chunks_mut(task).zip(dup.par_chunks_mut(task));
        outs.zip(inps).for_each(|((dgate, dup), ((gate, up), dy))| match activation {
            Activation::Silu => backward_with(silu_and_slope, dgate, dup, gate, up, dy),
            Activation::GeluTanh => backward_with(gelu_and_slope, dgate, dup, gate, up, dy),
        });
    };
    let (dgate, (dup, ())) =
        written(gate.len(), |dgate| written(up.len(), |dup| write(dgate, dup)));
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
