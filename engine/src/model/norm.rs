//! RMSNorm with its weight, and where norms stand: before a sub-layer, after one, or on every head.

use candle_core::Tensor;
use fleetune_shared::ModelSpec;

use super::block::Pass;
use super::linear::{Linear, LinearSaved};
use super::trainable::Parameter;
use crate::Result;
use crate::ops::{Backend, Onto};

/// `x · rstd · w`, or `x · rstd · (1 + w)` where the architecture keeps its weights around zero.
#[derive(Debug)]
pub(crate) struct Norm {
    /// `[n]`.
    pub(crate) weight: Parameter,
    unit_offset: bool,
    eps: f64,
}

impl Norm {
    pub(crate) fn new(weight: Parameter, spec: &ModelSpec) -> Self {
        Self { weight, unit_offset: spec.norm_unit_offset, eps: spec.rms_norm_eps }
    }

    /// Rows of `x` as they are wide: `y` like `x`, and the `rstd` of each.
    pub(crate) fn forward(&self, ops: &dyn Backend, x: &Tensor) -> Result<(Tensor, Tensor)> {
        ops.rms_norm(x, &self.factor()?, self.eps)
    }

    /// Adds the input's gradient to `dx`, and the weight's to the weight. `dy` is whatever of the output's was wanted.
    pub(crate) fn backward(
        &mut self,
        ops: &dyn Backend,
        dy: Option<&Tensor>,
        x: &Tensor,
        rstd: &Tensor,
        dx: &Tensor,
    ) -> Result<()> {
        let Some(dy) = dy else { return Ok(()) };
        let trained = self.weight.trained();
        let dweight = ops.rms_norm_backward(dy, x, &self.factor()?, rstd, dx, trained)?;
        if let (Some(weight), Some(grad)) = (self.weight.trained_mut(), dweight) {
            weight.accumulate(ops, grad)?;
        }
        Ok(())
    }

    /// As [`Self::forward`] for every head of `x` (`[T, heads · n]`).
    pub(crate) fn forward_heads(&self, ops: &dyn Backend, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, rstd) = self.forward(ops, &self.heads(x)?)?;
        Ok((y.reshape(x.shape())?, rstd))
    }

    /// The input's gradient of [`Self::forward_heads`]; adds the weight's to the weight.
    pub(crate) fn backward_heads(
        &mut self,
        ops: &dyn Backend,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
    ) -> Result<Tensor> {
        let dx = x.zeros_like()?;
        let (dy, x) = (self.heads(dy)?, self.heads(x)?);
        self.backward(ops, Some(&dy), &x, rstd, &self.heads(&dx)?)?;
        Ok(dx)
    }

    /// One row per head, around the same numbers.
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.reshape(((), self.weight.value().dim(0)?))?)
    }

    fn factor(&self) -> Result<Tensor> {
        let weight = self.weight.value();
        if self.unit_offset { Ok((weight + 1.0)?) } else { Ok(weight.clone()) }
    }
}

/// The norm a sub-layer's output passes on its way to the residual, where the architecture has one.
#[derive(Debug)]
pub(crate) struct OutNorm(pub(crate) Option<Norm>);

/// What [`OutNorm`] keeps: its input and `rstd`.
#[derive(Debug)]
pub(crate) struct OutNormSaved(Option<(Tensor, Tensor)>);

impl OutNorm {
    /// Adds what `linear` makes of `x`, and what the norm makes of that, to a copy of the residual.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        linear: &Linear,
        x: &Tensor,
        residual: &Tensor,
    ) -> Result<(Tensor, LinearSaved, OutNormSaved)> {
        let sum = Onto::Sum(pass.ops.copied(residual)?);
        let Some(norm) = &self.0 else {
            let (y, saved) = linear.forward(pass, x, sum)?;
            return Ok((y, saved, OutNormSaved(None)));
        };
        let (out, saved) = linear.forward(pass, x, Onto::New)?;
        let (y, rstd) = norm.forward(pass.ops, &out)?;
        Ok((pass.ops.deliver(y, sum)?, saved, OutNormSaved(Some((out, rstd)))))
    }

    /// The gradient of the sub-layer's output, made as activations are.
    pub(crate) fn backward(
        &mut self,
        ops: &dyn Backend,
        dy: &Tensor,
        saved: OutNormSaved,
    ) -> Result<Tensor> {
        let (Some(norm), Some((out, rstd))) = (&mut self.0, saved.0) else {
            return ops.as_activation(dy);
        };
        let dout = out.zeros_like()?;
        norm.backward(ops, Some(dy), &out, &rstd, &dout)?;
        Ok(dout)
    }

    pub(crate) fn trained(&self) -> bool {
        self.0.as_ref().is_some_and(|norm| norm.weight.trained())
    }
}
