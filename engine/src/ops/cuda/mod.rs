//! The arithmetic on an NVIDIA card: products by cuBLAS through candle, everything else by the kernels in
//! `engine/kernels`.
//!
//! ```text
//!   Backend ─▶ Cuda ─┬─▶ candle ─▶ cuBLAS                 products
//!                    └─▶ launch ─▶ Card ─┬─ Gpu           the driver; kernels compiled by NVRTC (feature `cuda`)
//!                                        └─ tests::Host   the same kernels on the CPU, through kernels/host
//! ```
//!
//! Everything above [`launch::Card`] is the same code on a GPU and in the tests. Compiled, not yet run on a GPU.

mod attention;
mod cross_entropy;
mod dropout;
mod gated;
#[cfg(feature = "cuda")]
mod gpu;
pub(crate) mod launch;
mod norm;
#[cfg(feature = "cuda")]
mod pool;
mod product;
mod rope;
mod rows;
mod soft_cap;
mod source;
mod squares;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
#[cfg(feature = "cuda")]
use fleetune_shared::CARD_SCORES;
use fleetune_shared::{Activation, recipe};

use self::launch::Card;
use super::{AttentionShape, Backend, DropoutMask, LowRank, Onto, Rotary, Turn};
use crate::Result;
use crate::memory::Counter;
use crate::optim::cuda::CodeTables;
use crate::optim::{self, Rounding, Step};
use crate::quant::{Bf16Tensor, FourBitOnCard, Packed, PackedMatrix, Weight};

/// The backend on a card. Tensors given to it live there.
#[derive(Debug)]
pub struct Cuda {
    pub(crate) card: Arc<dyn Card>,
    /// What packed weights are unpacked to, and multiplied in.
    unpacked: DType,
    /// Scores of attention that exist at a time.
    tile_scores: usize,
    /// Of AdamW in 8 bits, once it was asked for.
    pub(crate) code_tables: OnceLock<[CodeTables; 2]>,
}

impl Cuda {
    /// The card of this number, its kernels compiled. Weights of few bits are multiplied in `unpacked`, f32 or bf16.
    ///
    /// # Errors
    /// [`crate::EngineError::Tensor`] when there is no such card, no driver, or NVRTC refuses.
    #[cfg(feature = "cuda")]
    pub fn open(ordinal: usize, unpacked: DType) -> Result<Self> {
        Ok(Self::on(Arc::new(gpu::Gpu::open(ordinal)?), unpacked, CARD_SCORES))
    }

    fn on(card: Arc<dyn Card>, unpacked: DType, tile_scores: usize) -> Self {
        Self { card, unpacked, tile_scores, code_tables: OnceLock::new() }
    }

    /// Where its tensors live.
    fn device(&self) -> &Device {
        self.card.device()
    }

    pub(crate) fn card(&self) -> &dyn Card {
        &*self.card
    }

    /// As many rows as `x` has, of `width` zeros.
    fn zeros(&self, x: &Tensor, width: usize) -> Result<Tensor> {
        Ok(Tensor::zeros((x.dim(0)?, width), DType::F32, self.device())?)
    }

    fn finish(&self, y: Tensor, low: Option<LowRank<'_>>, onto: Onto) -> Result<Tensor> {
        if let Some(LowRank { c, m }) = low {
            self.add_low_rank(&y, c, m)?;
        }
        self.deliver(y, onto)
    }
}

impl Backend for Cuda {
    fn place(&self) -> Device {
        self.device().clone()
    }

    fn counter(&self) -> Option<Arc<dyn Counter>> {
        self.card.counter()
    }

    /// f32, bf16 and four bits go over as they are; what has no kernel stays, and goes over tile by tile each time.
    fn carried(&self, weight: &Weight) -> Result<Weight> {
        let matrix = match weight {
            Weight::F32(value) => return Ok(Weight::F32(value.to_device(self.device())?)),
            Weight::Packed(matrix) => matrix,
        };
        let (rows, width) = matrix.dims2();
        let numbers = matrix.numbers();
        let held: Arc<dyn Packed> = if let Some(value) = numbers.as_tensor() {
            Arc::new(Bf16Tensor(value.to_device(self.device())?))
        } else if let Some(value) = numbers.as_bf16() {
            Arc::new(Bf16Tensor(Tensor::from_slice(value, (rows, width), self.device())?))
        } else if let Some(four) = numbers.as_four_bit() {
            Arc::new(FourBitOnCard::carry(self.card.clone(), four)?)
        } else {
            return Ok(weight.clone());
        };
        Ok(Weight::Packed(PackedMatrix::new(held, width)))
    }

    fn linear(
        &self,
        x: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        let y = match w {
            Weight::F32(w) => product::project(x, w)?,
            Weight::Packed(w) => match w.numbers().as_tensor() {
                Some(w) => product::project(x, w)?,
                None => {
                    let y = self.zeros(x, w.dims2().0)?;
                    w.tiles_on_card(self.device(), self.unpacked, |from, tile| {
                        product::project_into(&y, from, x, tile)
                    })?;
                    y
                }
            },
        };
        self.finish(y, low, onto)
    }

    fn linear_dx(
        &self,
        dy: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        let dx = match w {
            Weight::F32(w) => product::project_dx(dy, w)?,
            Weight::Packed(w) => match w.numbers().as_tensor() {
                Some(w) => product::project_dx(dy, w)?,
                None => {
                    let dx = self.zeros(dy, w.dims2().1)?;
                    w.tiles_on_card(self.device(), self.unpacked, |from, tile| {
                        let part = dy.narrow(1, from, tile.dim(0)?)?.contiguous()?;
                        self.add(&dx, &product::project_dx(&part, tile)?)
                    })?;
                    dx
                }
            },
        };
        self.finish(dx, low, onto)
    }

    fn project_dw(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        product::project_dw(dy, x)
    }

    fn add_low_rank(&self, y: &Tensor, c: &Tensor, m: &Tensor) -> Result<()> {
        self.add(y, &product::product(c, m)?)
    }

    fn add(&self, sum: &Tensor, term: &Tensor) -> Result<()> {
        rows::add(self.card(), sum, term)
    }

    fn add_bias(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        rows::by_columns(self.card(), "add_bias", y, bias)
    }

    fn sum_rows(&self, dy: &Tensor) -> Result<Tensor> {
        rows::sum(self.card(), dy)
    }

    fn scale(&self, y: &Tensor, factor: &Tensor) -> Result<()> {
        rows::by_columns(self.card(), "scale_columns", y, factor)
    }

    fn dot_rows(&self, dy: &Tensor, y: &Tensor) -> Result<Tensor> {
        rows::dot(self.card(), dy, y)
    }

    fn dropout(&self, x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
        dropout::dropout(self.card(), x, mask)
    }

    fn sum_of_squares(&self, x: &Tensor) -> Result<f64> {
        squares::sum(self.card(), x)
    }

    fn gather(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        rows::gather(self.card(), table, ids)
    }

    fn scatter_add(&self, dtable: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()> {
        rows::scatter_add(self.card(), dtable, ids, dy)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        norm::forward(self.card(), x, weight, eps)
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
        norm::backward(self.card(), dy, x, weight, rstd, dx)?;
        dweight.then(|| norm::backward_weight(self.card(), dy, x, rstd)).transpose()
    }

    fn rotate(&self, x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()> {
        rope::rotate(self.card(), x, rotary, turn)
    }

    fn gated(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gated::forward(self.card(), activation, gate, up)
    }

    fn gated_backward(
        &self,
        activation: Activation,
        gate: &Tensor,
        up: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        gated::backward(self.card(), activation, gate, up, dy)
    }

    fn soft_cap(&self, x: &Tensor, cap: f64) -> Result<()> {
        soft_cap::forward(self.card(), x, cap as f32)
    }

    fn soft_cap_backward(&self, dy: &Tensor, y: &Tensor, cap: f64) -> Result<()> {
        soft_cap::backward(self.card(), dy, y, cap as f32)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape<'_>,
    ) -> Result<(Tensor, Tensor)> {
        attention::forward(self.card(), self.tile_scores, (q, k, v), shape)
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
        attention::backward(self.card(), self.tile_scores, (q, k, v), (dout, out, lse), shape)
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &[u32], smoothing: f64) -> Result<f64> {
        cross_entropy::forward(self.card(), logits, targets, smoothing)
    }

    fn cross_entropy_backward(
        &self,
        logits: &Tensor,
        targets: &[u32],
        smoothing: f64,
        scale: f64,
    ) -> Result<f64> {
        cross_entropy::backward(self.card(), logits, targets, smoothing, scale)
    }

    fn log_probs(&self, logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
        cross_entropy::log_probs(self.card(), logits, targets)
    }

    fn log_probs_backward(&self, logits: &Tensor, targets: &[u32], dlogps: &[f64]) -> Result<()> {
        cross_entropy::log_probs_backward(self.card(), logits, targets, dlogps)
    }

    fn log_collisions(&self, logits: &Tensor) -> Result<Vec<f64>> {
        cross_entropy::log_collisions(self.card(), logits)
    }

    fn steps_adamw(&self) -> bool {
        true
    }

    fn adamw(
        &self,
        settings: recipe::AdamW,
        step: &Step,
        rounding: Rounding,
        values: &Tensor,
        grads: &Tensor,
        moments: [&[Tensor]; 2],
    ) -> Result<()> {
        optim::cuda::adamw(self, settings, step, rounding, values, grads, moments)
    }
}
