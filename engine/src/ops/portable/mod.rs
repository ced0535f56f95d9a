//! The arithmetic in plain Rust: loops over f32 slices shared between cores by rayon, products by candle.
//!
//! Runs wherever Rust does. Each operation is one file with its forward and its backward; this file only hands out.

pub(super) mod attention;
mod cross_entropy;
pub(super) mod exp;
pub(super) mod gated;
pub(super) mod norm;
pub(super) mod parallel;
mod product;
pub(super) mod reduce;
pub(super) mod rope;
pub(super) mod rows;
pub(super) mod tanh;

use candle_core::{DType, Device, Tensor};
use fleetune_shared::Activation;
use half::bf16;

use self::product::Cores;
use super::slices::copied;
use super::{AttentionShape, Backend, DropoutMask, LowRank, Onto, Rotary, Turn};
use crate::Result;
use crate::quant::Weight;

/// The backend in plain Rust, on the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

/// Fewer tokens than this are projected by dot products: packing a weight for a product costs more than reading it.
pub(super) const FEW: usize = 4;

/// As many rows as `x` has, of `width` zeros.
fn zeros(x: &Tensor, width: usize) -> Result<Tensor> {
    Ok(Tensor::zeros((x.dim(0)?, width), DType::F32, &Device::Cpu)?)
}

impl Backend for Portable {
    fn copied(&self, x: &Tensor) -> Result<Tensor> {
        copied(x)
    }

    fn linear(
        &self,
        x: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        let y = match w {
            Weight::F32(w) if x.dim(0)? < FEW => rows::project_few(x, w)?,
            Weight::F32(w) => product::matmul(x, &w.t()?, Cores::All)?,
            Weight::Packed(w) => {
                let y = zeros(x, w.dims2().0)?;
                w.tiles(|from, tile| product::project_into(&y, from, x, tile))?;
                y
            }
        };
        if let Some(LowRank { c, m }) = low {
            rows::add_low_rank::<f32>(&y, c, m)?;
        }
        self.deliver(y, onto)
    }

    fn linear_dx(
        &self,
        dy: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        let dx = match w {
            Weight::F32(w) => product::matmul(dy, w, Cores::All)?,
            Weight::Packed(w) => {
                let dx = zeros(dy, w.dims2().1)?;
                w.tiles(|from, tile| product::add_project_dx(&dx, dy, from, tile))?;
                dx
            }
        };
        if let Some(LowRank { c, m }) = low {
            rows::add_low_rank::<f32>(&dx, c, m)?;
        }
        self.deliver(dx, onto)
    }

    fn project_dw(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        product::matmul(&dy.t()?, x, Cores::All)
    }

    fn add_project_dw(&self, sum: &Tensor, dy: &Tensor, x: &Tensor) -> Result<()> {
        product::add_matmul(sum, &dy.t()?, x)
    }

    fn add_low_rank(&self, y: &Tensor, c: &Tensor, m: &Tensor) -> Result<()> {
        rows::add_low_rank::<f32>(y, c, m)
    }

    fn add(&self, sum: &Tensor, term: &Tensor) -> Result<()> {
        rows::add::<f32, f32>(sum, term)
    }

    fn add_bias(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        rows::add_bias::<f32>(y, bias)
    }

    fn sum_rows(&self, dy: &Tensor) -> Result<Tensor> {
        rows::sum::<f32>(dy)
    }

    fn scale(&self, y: &Tensor, factor: &Tensor) -> Result<()> {
        rows::scale::<f32>(y, factor)
    }

    fn dot_rows(&self, dy: &Tensor, y: &Tensor) -> Result<Tensor> {
        rows::dot_rows::<f32, f32>(dy, y)
    }

    fn dropout(&self, x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
        rows::dropout::<f32>(x, mask)
    }

    fn gather(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        match table.dtype() {
            DType::BF16 => rows::gather::<bf16>(table, ids),
            _ => rows::gather::<f32>(table, ids),
        }
    }

    fn scatter_add(&self, dtable: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()> {
        rows::scatter_add(dtable, ids, dy)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        norm::forward::<f32, f32>(x, weight, eps)
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
        norm::backward::<f32, f32, f32>(dy, x, weight, rstd, dx)?;
        dweight.then(|| norm::backward_weight::<f32, f32>(dy, x, rstd)).transpose()
    }

    fn rotate(&self, x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()> {
        rope::rotate::<f32>(x, rotary, turn)
    }

    fn gated(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gated::forward::<f32>(activation, gate, up)
    }

    fn gated_backward(
        &self,
        activation: Activation,
        gate: &Tensor,
        up: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        gated::backward::<f32>(activation, gate, up, dy)
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
