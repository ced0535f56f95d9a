//! SwiGLU (arXiv 2002.05202): `silu(gate) · up`.

use candle_core::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::parallel;
use crate::Result;
use crate::ops::slices::{tensor, view};

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

pub(super) fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (tokens, width) = gate.dims2()?;
    let (gate, up) = (view(gate)?, view(up)?);
    let (gate, up) = (&*gate, &*up);
    let mut y = vec![0.0; gate.len()];
    parallel::rows(&mut y, width, |t, y| {
        let (gate, up) = (&gate[t * width..][..width], &up[t * width..][..width]);
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(*gate) * up;
        }
    });
    tensor(y, &[tokens, width])
}

/// With σ = sigmoid(gate): `dup = dy · gate · σ`, `dgate = dy · up · σ · (1 + gate · (1 − σ))`.
pub(super) fn backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
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
            let sigma = sigmoid(*gate);
            *dup = dy * gate * sigma;
            *dgate = dy * up * sigma * (1.0 + gate * (1.0 - sigma));
        }
    });
    Ok((tensor(dgate, &[tokens, width])?, tensor(dup, &[tokens, width])?))
}
