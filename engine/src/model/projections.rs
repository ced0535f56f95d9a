//! Linear layers that read the same input: q, k and v, or gate and up.

use candle_core::{Error, Tensor};

use super::block::Pass;
use super::linear::{Linear, LinearSaved, learn_a, lows};
use crate::Result;
use crate::ops::Onto;

/// `N` projections of one input: a linear layer for each, or one that makes all of them, whose output is cut (Phi-3's
/// `qkv_proj` and `gate_up_proj`). The weights stay as the files have them, so that adapters, quantised blocks and
/// saved models keep the layers other tools know.
#[derive(Debug)]
pub(crate) struct Projections<const N: usize> {
    /// One, or `N`.
    pub(crate) linears: Vec<Linear>,
    /// Of each projection.
    widths: [usize; N],
}

impl<const N: usize> Projections<N> {
    pub(crate) fn new(linears: Vec<Linear>, widths: [usize; N]) -> Self {
        Self { linears, widths }
    }

    /// `[T, in]` to `[T, width]` each, and what each linear layer keeps.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
    ) -> Result<([Tensor; N], Vec<LinearSaved>)> {
        let (mut outs, mut saved) = (Vec::new(), Vec::new());
        let lows = lows(pass, &self.linears, x)?;
        for (linear, low) in self.linears.iter().zip(lows) {
            let (y, kept) = linear.forward_with(pass, x, low, Onto::New)?;
            outs.push(y);
            saved.push(kept);
        }
        if let ([all], true) = (outs.as_slice(), N > 1) {
            let mut from = 0;
            let mut cut = |width: usize| {
                from += width;
                all.narrow(1, from - width, width)?.contiguous()
            };
            outs = self.widths.iter().map(|width| cut(*width)).collect::<Result<_, _>>()?;
        }
        let outs = outs.try_into().map_err(|outs: Vec<_>| {
            Error::Msg(format!("{} projections of one input, expected {N}", outs.len()))
        })?;
        Ok((outs, saved))
    }

    /// The input's gradient in f32, the sum over all projections, if it is wanted; adds to the gradients of what learns.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        dys: [Tensor; N],
        x: &Tensor,
        saved: &[LinearSaved],
        want_dx: bool,
    ) -> Result<Option<Tensor>> {
        if let ([linear], [saved]) = (self.linears.as_mut_slice(), saved) {
            let dy = Tensor::cat(&dys, 1)?;
            drop(dys);
            return linear.backward(pass, &dy, x, saved, want_dx.then_some(Onto::F32));
        }
        let (mut sum, mut dlows) = (None, Vec::new());
        for ((linear, dy), saved) in self.linears.iter_mut().zip(dys).zip(saved) {
            let onto = want_dx.then(|| sum.take().map_or(Onto::F32, Onto::Sum));
            let (dx, dlow) = linear.backward_but_a(pass, &dy, x, saved, onto)?;
            sum = dx;
            dlows.push(dlow);
        }
        learn_a(pass.ops, self.linears.iter_mut().zip(dlows), x)?;
        Ok(sum)
    }

    pub(crate) fn trained(&self) -> bool {
        self.linears.iter().any(Linear::trained)
    }
}
