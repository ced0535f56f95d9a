//! A linear layer, its bias, and the low-rank pair beside it.

use candle_core::Tensor;

use super::block::Pass;
use super::trainable::{Parameter, Trainable};
use crate::Result;

/// `y = x · Wᵀ + b + s · (x · Aᵀ) · Bᵀ` (LoRA, arXiv 2106.09685).
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    pub(crate) weight: Parameter,
    /// `[out]`.
    pub(crate) bias: Option<Parameter>,
    pub(crate) lora: Option<LoraPair>,
}

/// The trained pair of a linear layer.
#[derive(Debug)]
pub(crate) struct LoraPair {
    /// `[r, in]`.
    pub(crate) a: Trainable,
    /// `[out, r]`.
    pub(crate) b: Trainable,
    /// `s`.
    pub(crate) scaling: f64,
}

/// What a linear layer keeps from its forward to its backward pass, besides its input.
#[derive(Debug, Default)]
pub(crate) struct LinearSaved {
    /// `x · Aᵀ`, `[T, r]`, beside an adapter.
    low: Option<Tensor>,
}

impl Linear {
    /// `[T, in]` to `[T, out]`, and what the backward pass wants again.
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &Tensor) -> Result<(Tensor, LinearSaved)> {
        let ops = pass.ops;
        let y = self.weight.project(ops, x)?;
        if let Some(bias) = &self.bias {
            ops.add_bias(&y, bias.value())?;
        }
        let Some(LoraPair { a, b, scaling }) = self.lora.as_ref().filter(|_| pass.adapters) else {
            return Ok((y, LinearSaved::default()));
        };
        let low = ops.project(x, &a.value)?;
        let b = (b.value.t()?.contiguous()? * *scaling)?;
        ops.add_low_rank(&y, &low, &b)?;
        Ok((y, LinearSaved { low: Some(low) }))
    }

    /// Whether anything here learns.
    pub(crate) fn trained(&self) -> bool {
        self.lora.is_some()
            || self.weight.trained()
            || self.bias.as_ref().is_some_and(Parameter::trained)
    }

    /// Adds to the gradients of whatever learns: `dA = s·(dy·B)ᵀ·x`, `dB = s·dyᵀ·(x·Aᵀ)`, `dW = dyᵀ·x`; gives
    /// `dx = dy·W + s·(dy·B)·A` when it is wanted.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        dy: &Tensor,
        x: &Tensor,
        saved: &LinearSaved,
        want_dx: bool,
    ) -> Result<Option<Tensor>> {
        let ops = pass.ops;
        if let Some(bias) = self.bias.as_mut().and_then(Parameter::trained_mut) {
            bias.accumulate(ops, ops.sum_rows(dy)?)?;
        }
        if let Some(weight) = self.weight.trained_mut() {
            weight.accumulate_product(ops, dy, x)?;
        }
        let dx = want_dx.then(|| self.weight.project_dx(ops, dy)).transpose()?;
        if let (Some(LoraPair { a, b, scaling }), Some(low)) = (&mut self.lora, &saved.low) {
            let dlow = (ops.project_dx(dy, &b.value)? * *scaling)?;
            if let Some(dx) = &dx {
                ops.add_low_rank(dx, &dlow, &a.value)?;
            }
            a.accumulate(ops, ops.project_dw(&dlow, x)?)?;
            b.accumulate(ops, ops.project_dw(dy, &(low * *scaling)?)?)?;
        }
        Ok(dx)
    }

    /// What learns here, in a fixed order.
    pub(crate) fn trainables_mut(&mut self) -> impl Iterator<Item = &mut Trainable> {
        let base = [Some(&mut self.weight), self.bias.as_mut()];
        let base = base.into_iter().flatten().filter_map(Parameter::trained_mut);
        base.chain(self.lora.iter_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]))
    }
}
