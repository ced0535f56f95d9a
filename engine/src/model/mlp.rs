//! The second half of a decoder block: the gated MLP, its norms, and the residual around them.
//!
//! ```text
//!   x ─┬─ norm ─ gate,up ─ act(gate)·up ─ down ─ (norm) ─(+)─▶
//!      └──────────────────────────────────────────────────┘
//! ```
//!
//! The backward pass makes the normed input and the activation again; everything that costs a product is kept, unless
//! [`MlpSaved::shed`] lets go of the widest of it.

use candle_core::Tensor;

use super::block::Pass;
use super::linear::{Linear, LinearSaved};
use super::norm::{Norm, OutNorm, OutNormSaved};
use super::projections::Projections;
use crate::Result;
use crate::ops::Onto;

#[derive(Debug)]
pub(crate) struct Mlp {
    pub(crate) norm: Norm,
    pub(crate) gate_up: Projections<2>,
    pub(crate) down: Linear,
    pub(crate) out_norm: OutNorm,
}

/// What is kept from the forward to the backward pass: per token the input, gate, up and the norms' rstd. The
/// estimator in `shared` counts exactly these.
#[derive(Debug)]
pub(crate) struct MlpSaved {
    x: Tensor,
    rstd: Tensor,
    /// Gate, up, and what their layers keep; made again where it is gone.
    gates: Option<Gates>,
    down: LinearSaved,
    out_norm: OutNormSaved,
}

type Gates = ([Tensor; 2], Vec<LinearSaved>);

impl MlpSaved {
    /// Lets go of gate and up.
    pub(super) fn shed(&mut self) {
        self.gates = None;
    }
}

impl Mlp {
    /// `[T, H]` to `[T, H]`, and what the backward pass needs.
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: Tensor) -> Result<(Tensor, MlpSaved)> {
        let ops = pass.ops;
        let (normed, rstd) = self.norm.forward(ops, &x)?;
        let gates = self.gate_up.forward(pass, &normed)?;
        drop(normed);
        let [gate, up] = &gates.0;
        let activation = ops.gated(pass.spec.hidden_act, gate, up)?;
        let (y, down, out_norm) = self.out_norm.forward(pass, &self.down, &activation, &x)?;
        drop(activation);
        Ok((y, MlpSaved { x, rstd, gates: Some(gates), down, out_norm }))
    }

    /// From `dy` (`[T, H]`) to the input's gradient, if that is wanted, adding to the gradients of what learns.
    /// Nothing is computed below the lowest thing that learns.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        dy: Tensor,
        saved: MlpSaved,
        want_dx: bool,
    ) -> Result<Option<Tensor>> {
        let ops = pass.ops;
        let act = pass.spec.hidden_act;
        let want_normed = want_dx || self.norm.weight.trained();
        let want_gate = want_normed || self.gate_up.trained();
        let want_down = want_gate || self.down.trained();
        if !want_down && !self.out_norm.trained() {
            return Ok(None);
        }

        let MlpSaved { x, rstd, gates, down, out_norm } = saved;
        let ddown = self.out_norm.backward(ops, &dy, out_norm)?;
        if !want_down {
            return Ok(None);
        }
        let ([gate, up], gate_up) = match gates {
            Some(gates) => gates,
            None => self.gate_up.forward(pass, &self.norm.forward(ops, &x)?.0)?,
        };
        let activation = ops.gated(act, &gate, &up)?;
        let onto = want_gate.then_some(Onto::New);
        let dactivation = self.down.backward(pass, &ddown, &activation, &down, onto)?;
        drop((activation, ddown));
        let Some(dactivation) = dactivation else { return Ok(None) };
        let (dgate, dup) = ops.gated_backward(act, &gate, &up, &dactivation)?;
        drop((gate, up, dactivation));
        let (normed, _) = self.norm.forward(ops, &x)?;
        let dnormed = self.gate_up.backward(pass, [dgate, dup], &normed, &gate_up, want_normed)?;
        drop(normed);
        self.norm.backward(ops, dnormed.as_ref(), &x, &rstd, &dy)?;
        Ok(want_dx.then_some(dy))
    }

    /// Whether anything here learns.
    pub(crate) fn trained(&self) -> bool {
        self.norm.weight.trained()
            || self.gate_up.trained()
            || self.down.trained()
            || self.out_norm.trained()
    }
}
