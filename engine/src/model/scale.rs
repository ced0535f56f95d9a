//! IA³ beside a linear layer (arXiv 2205.05638).

use candle_core::Tensor;

use super::linear::{Linear, LinearSaved};
use super::trainable::{Parameter, Trainable};
use crate::Result;
use crate::ops::{Backend, Onto};

/// `y = l ⊙ (x · Wᵀ + b)`, or `y = (l ⊙ x) · Wᵀ + b` in the feed-forward half.
#[derive(Debug)]
pub(crate) struct Scale {
    /// `l`: `[out, 1]` or `[1, in]`.
    pub(crate) scale: Trainable,
    pub(crate) feedforward: bool,
}

impl Scale {
    fn factor(&self) -> Result<Tensor> {
        Ok(self.scale.value.flatten_all()?)
    }

    pub(super) fn forward(
        &self,
        ops: &dyn Backend,
        linear: &Linear,
        x: &Tensor,
        onto: Onto,
    ) -> Result<(Tensor, LinearSaved)> {
        if self.feedforward {
            let x = x.copy()?;
            ops.scale(&x, &self.factor()?)?;
            return Ok((linear.base(ops, &x, None, onto)?, LinearSaved::default()));
        }
        let unscaled = linear.base(ops, x, None, Onto::New)?;
        let y = unscaled.copy()?;
        ops.scale(&y, &self.factor()?)?;
        Ok((ops.deliver(y, onto)?, LinearSaved { low: None, unscaled: Some(unscaled) }))
    }

    /// `dl = Σ dy ⊙ (x·Wᵀ + b)` and `dx = (l ⊙ dy)·W`, or `dl = Σ (dy·W) ⊙ x` and `dx = l ⊙ (dy·W)`.
    pub(super) fn backward(
        &mut self,
        ops: &dyn Backend,
        weight: &Parameter,
        dy: &Tensor,
        x: &Tensor,
        saved: &LinearSaved,
        onto: Option<Onto>,
    ) -> Result<Option<Tensor>> {
        let factor = self.factor()?;
        if self.feedforward {
            let dscaled = weight.project_dx(ops, dy, None, Onto::New)?;
            let dfactor = ops.dot_rows(&dscaled, x)?;
            self.scale.accumulate(ops, dfactor.reshape(self.scale.value.shape())?)?;
            let Some(onto) = onto else { return Ok(None) };
            ops.scale(&dscaled, &factor)?;
            return ops.deliver(dscaled, onto).map(Some);
        }
        if let Some(unscaled) = &saved.unscaled {
            let dfactor = ops.dot_rows(dy, unscaled)?;
            self.scale.accumulate(ops, dfactor.reshape(self.scale.value.shape())?)?;
        }
        let Some(onto) = onto else { return Ok(None) };
        let dy = dy.copy()?;
        ops.scale(&dy, &factor)?;
        weight.project_dx(ops, &dy, None, onto).map(Some)
    }
}
