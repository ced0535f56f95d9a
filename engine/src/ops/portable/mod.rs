//! The arithmetic in plain Rust: loops over f32 slices shared between cores by rayon, products by candle.
//!
//! Runs wherever Rust does. Each operation is one file with its forward and its backward; this file only hands out.

mod attention;
mod cross_entropy;
mod exp;
mod gated;
mod norm;
mod parallel;
mod product;
mod reduce;
mod rope;
mod rows;
mod tanh;

use candle_core::Tensor;
use fleetune_shared::Activation;

use super::{AttentionShape, Backend, DropoutMask, Rotary, Turn};
use crate::Result;

/// The backend in plain Rust, on the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

/// Fewer tokens than this are projected by dot products: packing a weight for a product costs more than reading it.
const FEW: usize = 4;

impl Backend for Portable {
    fn project(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        if x.dim(0)? < FEW { rows::project_few(x, w) } else { Ok(x.matmul(&w.t()?)?) }
    }

    fn project_into(&self, y: &Tensor, from: usize, x: &Tensor, w: &Tensor) -> Result<()> {
        product::project_into(y, from, x, w)
    }

    fn add_project_dx(&self, dx: &Tensor, dy: &Tensor, from: usize, w: &Tensor) -> Result<()> {
        product::add_project_dx(dx, dy, from, w)
    }

    fn add_low_rank(&self, y: &Tensor, c: &Tensor, m: &Tensor) -> Result<()> {
        rows::add_low_rank(y, c, m)
    }

    fn add(&self, sum: &Tensor, term: &Tensor) -> Result<()> {
        rows::add(sum, term)
    }

    fn add_bias(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        rows::add_bias(y, bias)
    }

    fn sum_rows(&self, dy: &Tensor) -> Result<Tensor> {
        rows::sum(dy)
    }

    fn scale(&self, y: &Tensor, factor: &Tensor) -> Result<()> {
        rows::scale(y, factor)
    }

    fn dot_rows(&self, dy: &Tensor, y: &Tensor) -> Result<Tensor> {
        rows::dot_rows(dy, y)
    }

    fn dropout(&self, x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
        rows::dropout(x, mask)
    }

    fn gather(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        rows::gather(table, ids)
    }

    fn scatter_add(&self, dtable: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()> {
        rows::scatter_add(dtable, ids, dy)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        norm::forward(x, weight, eps)
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        rstd: &Tensor,
        dx: &Tensor,
        dweight: bool,
    ) -> Result<Option<Tensor>> {
        norm::backward(dy, x, weight, rstd, dx)?;
        dweight.then(|| norm::backward_weight(dy, x, rstd)).transpose()
    }

    fn rotate(&self, x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()> {
        rope::rotate(x, rotary, turn)
    }

    fn gated(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gated::forward(activation, gate, up)
    }

    fn gated_backward(
        &self,
        activation: Activation,
        gate: &Tensor,
        up: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        gated::backward(activation, gate, up, dy)
    }

    fn soft_cap(&self, x: &Tensor, cap: f64) -> Result<()> {
        tanh::soft_cap(x, cap as f32)
    }

    fn soft_cap_backward(&self, dy: &Tensor, y: &Tensor, cap: f64) -> Result<()> {
        tanh::soft_cap_backward(dy, y, cap as f32)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape<'_>,
    ) -> Result<(Tensor, Tensor)> {
        attention::forward(q, k, v, shape)
    }

    fn attention_backward(
        &self,
        dout: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        shape: &AttentionShape<'_>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        attention::backward(dout, q, k, v, out, lse, shape)
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &[u32], smoothing: f64) -> Result<f64> {
        cross_entropy::forward(logits, targets, smoothing)
    }

    fn cross_entropy_backward(
        &self,
        logits: &Tensor,
        targets: &[u32],
        smoothing: f64,
        scale: f64,
    ) -> Result<f64> {
        cross_entropy::backward(logits, targets, smoothing, scale)
    }

    fn log_probs(&self, logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
        cross_entropy::log_probs(logits, targets)
    }

    fn log_probs_backward(&self, logits: &Tensor, targets: &[u32], dlogps: &[f64]) -> Result<()> {
        cross_entropy::log_probs_backward(logits, targets, dlogps)
    }

    fn log_collisions(&self, logits: &Tensor) -> Result<Vec<f64>> {
        cross_entropy::log_collisions(logits)
    }
}
