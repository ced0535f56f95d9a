//! The seam between the driver and whoever does the arithmetic.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use fleetune_shared::{Activation, SLAB_ROWS, recipe};

use super::portable::reduce::squares;
use super::slices::view;
use super::{DropoutMask, Rotary, Turn};
use crate::memory::Counter;
use crate::optim::{Rounding, Step};
use crate::quant::Weight;
use crate::{EngineError, Result};

/// Queries of one example and the keys they may look at: those of `prefix`, then those of `k`.
///
/// Query `i` of the span sits at key `keys() − q.len() + i` and sees every key up to that one: with equal ranges
/// this is the causal mask of training, with a longer `k` it is decoding against a cache, and with a `prefix` the
/// example begins as another one does, where its first tokens lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the query tensor.
    pub q: Range<usize>,
    /// Rows of the key and value tensors that come first; mostly none.
    pub prefix: Range<usize>,
    /// Rows of the key and value tensors; never shorter than `q`.
    pub k: Range<usize>,
}

impl Span {
    /// An example whose keys are those of its own tokens.
    #[must_use]
    pub fn causal(tokens: Range<usize>) -> Self {
        Self { q: tokens.clone(), prefix: 0..0, k: tokens }
    }

    /// Keys in it.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.prefix.len() + self.k.len()
    }

    /// Keys before the first query's own.
    #[must_use]
    pub fn lead(&self) -> usize {
        self.keys() - self.q.len()
    }

    /// Rows of the keys, in their order.
    pub(crate) fn key_rows(&self) -> impl Iterator<Item = usize> {
        self.prefix.clone().chain(self.k.clone())
    }
}

/// How attention's tensors are cut into heads and examples, and what becomes of a score.
#[derive(Clone, Debug)]
pub struct AttentionShape<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads` (grouped-query attention, arXiv 2305.13245).
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Examples; no query sees a key outside its span.
    pub spans: &'a [Span],
    /// Keys a query sees at most, its own included (arXiv 2004.05150); `None` for all up to its own.
    pub window: Option<usize>,
    /// What `q · k` is multiplied by.
    pub scale: f64,
    /// `c` of the `c · tanh(score / c)` that follows (Gemma 2, arXiv 2408.00118), if any.
    pub soft_cap: Option<f64>,
}

/// A product to be added to another: `c · m`, `[T, r]` and `[r, n]` with a small `r`.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// `[T, r]`, made as activations are.
    pub c: &'a Tensor,
    /// `[r, n]`, f32.
    pub m: &'a Tensor,
}

/// Where a product goes.
#[derive(Debug)]
pub enum Onto {
    /// A tensor of its own, made as activations are.
    New,
    /// A tensor of its own, f32.
    F32,
    /// Added to this one, f32, which is given back.
    Sum(Tensor),
}

/// The leaf operations. `T` is tokens, `H` the residual width, `F` the MLP width.
///
/// # Errors
/// Every method fails on tensors that are not contiguous, of the stated shapes and f32 (or, where they are activations,
/// as [`Backend::activations`] says), or when the device does.
pub trait Backend: Debug + Send + Sync {
    /// What activations between layers are made of: f32 or bf16. Residual stream, norms' factors, log-sum-exps, logits
    /// and gradients of what learns are f32 always.
    fn activations(&self) -> DType {
        DType::F32
    }

    /// Where its tensors live.
    fn place(&self) -> Device {
        Device::Cpu
    }

    /// Who counts the memory its tensors take, where that is not the heap.
    fn counter(&self) -> Option<Arc<dyn Counter>> {
        None
    }

    /// `weight`, held on the CPU, in the form this backend multiplies by.
    fn carried(&self, weight: &Weight) -> Result<Weight> {
        Ok(weight.clone())
    }

    /// `x` as activations are, for whoever multiplies it several times.
    fn as_activation(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.to_dtype(self.activations())?)
    }

    /// The residual stream in a tensor of its own, to be added to.
    fn copied(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.copy()?)
    }

    /// `y`, a product made elsewhere, brought to where it is wanted.
    fn deliver(&self, y: Tensor, onto: Onto) -> Result<Tensor> {
        match onto {
            Onto::New => self.as_activation(&y),
            Onto::F32 => Ok(y.to_dtype(DType::F32)?),
            Onto::Sum(sum) => {
                self.add(&sum, &y)?;
                Ok(sum)
            }
        }
    }

    /// `x · wᵀ + low`: `[T, in]` and `[out, in]` give `[T, out]`.
    fn linear(
        &self,
        x: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor>;

    /// Gradient of [`Self::linear`] for its input: `dy · w + low`, `[T, out]` and `[out, in]` give `[T, in]`.
    fn linear_dx(
        &self,
        dy: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor>;

    /// `x · wᵀ`: `[T, in]` and `[out, in]` give `[T, out]`.
    fn project(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        self.linear(x, &Weight::F32(w.clone()), None, Onto::New)
    }

    /// Gradient of [`Self::project`] for its input: `dy · w`, `[T, out]` and `[out, in]` give `[T, in]`.
    fn project_dx(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        self.linear_dx(dy, &Weight::F32(w.clone()), None, Onto::New)
    }

    /// Gradient of [`Self::project`] for its weight: `dyᵀ · x`, `[T, out]` and `[T, in]` give `[out, in]`.
    /// `dy` may be a column slice of a wider tensor.
    fn project_dw(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        Ok(dy.t()?.matmul(x)?)
    }

    /// `sum += dyᵀ · x` in place, as [`Self::project_dw`]; what is held beside the sum is at most [`SLAB_ROWS`] rows.
    fn add_project_dw(&self, sum: &Tensor, dy: &Tensor, x: &Tensor) -> Result<()> {
        let rows = sum.dim(0)?;
        for from in (0..rows).step_by(SLAB_ROWS) {
            let slab = SLAB_ROWS.min(rows - from);
            let part = self.project_dw(&dy.narrow(1, from, slab)?, x)?;
            self.add(&sum.narrow(0, from, slab)?, &part)?;
        }
        Ok(())
    }

    /// [`Self::project`] of one input by several small weights, all of the input's width.
    fn project_each(&self, x: &Tensor, ws: &[&Tensor]) -> Result<Vec<Tensor>> {
        ws.iter().map(|w| self.project(x, w)).collect()
    }

    /// [`Self::project_dw`] of one input and several narrow `dys`.
    fn project_dw_each(&self, dys: &[&Tensor], x: &Tensor) -> Result<Vec<Tensor>> {
        dys.iter().map(|dy| self.project_dw(dy, x)).collect()
    }

    /// `y += c · m` in place: `[T, n]`, `[T, r]`, `[r, n]` with a small `r`.
    fn add_low_rank(&self, y: &Tensor, c: &Tensor, m: &Tensor) -> Result<()>;

    /// `sum += term` in place, same shape.
    fn add(&self, sum: &Tensor, term: &Tensor) -> Result<()>;

    /// `y[t, :] += bias` in place.
    fn add_bias(&self, y: &Tensor, bias: &Tensor) -> Result<()>;

    /// Gradient of [`Self::add_bias`] for the bias: the sum of all rows, `[n]`.
    fn sum_rows(&self, dy: &Tensor) -> Result<Tensor>;

    /// `y[t, :] *= factor` in place; `factor` holds `n` numbers. It is its own gradient for `y`.
    fn scale(&self, y: &Tensor, factor: &Tensor) -> Result<()>;

    /// Gradient of [`Self::scale`] for the factor: `Σ_t dy[t, :] · y[t, :]`, `[n]`.
    fn dot_rows(&self, dy: &Tensor, y: &Tensor) -> Result<Tensor>;

    /// `Σ x²` over all numbers of `x`, f32 of any shape, summed in f64 in an order that is the same every time.
    fn sum_of_squares(&self, x: &Tensor) -> Result<f64> {
        Ok(squares(&view(x)?))
    }

    /// `x` with what the mask drops at 0 and the rest scaled up, so that its mean stays: `[T, n]`. It is its own
    /// gradient.
    fn dropout(&self, x: &Tensor, mask: &DropoutMask) -> Result<Tensor>;

    /// Rows `ids` of `table` (`[V, H]`, f32 or bf16): `[ids, H]`, f32.
    fn gather(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor>;

    /// Gradient of [`Self::gather`]: `dtable[ids[i], :] += dy[i, :]` in place.
    fn scatter_add(&self, dtable: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()>;

    /// `y = x · rstd · weight` with `rstd = 1 / √(mean(x²) + eps)` (arXiv 1910.07467): `y` like `x`, `rstd` `[T]`.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)>;

    /// Gradient of [`Self::rms_norm`]: **adds** the input's gradient to `dx` in place, because a norm always stands
    /// beside a residual, and gives `Σ dy · x · rstd` (`[H]`) when `dweight` is wanted.
    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        rstd: &Tensor,
        dx: &Tensor,
        dweight: bool,
    ) -> Result<Option<Tensor>>;

    /// Turns every head of `x` (`[T, heads · head_dim]`), or its beginning, by its token's angles, in place; turning
    /// [`Turn::Back`] is the gradient. Halves are paired as in Hugging Face's `rotate_half` (arXiv 2104.09864).
    fn rotate(&self, x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()>;

    /// `activation(gate) · up` (arXiv 2002.05202), all `[T, F]`.
    fn gated(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor>;

    /// Gradients of [`Self::gated`] for `gate` and `up`.
    fn gated_backward(
        &self,
        activation: Activation,
        gate: &Tensor,
        up: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)>;

    /// `x = cap · tanh(x / cap)` in place.
    fn soft_cap(&self, x: &Tensor, cap: f64) -> Result<()>;

    /// Gradient of [`Self::soft_cap`], in place in `dy`; `y` is what the forward left.
    fn soft_cap_backward(&self, dy: &Tensor, y: &Tensor, cap: f64) -> Result<()>;

    /// Causal softmax attention inside each span and window: the output `[Tq, heads · head_dim]` and the log-sum-exp
    /// of each row of scores, `[Tq, heads]`, which is all the backward pass needs
    /// (FlashAttention-2, arXiv 2307.08691). Scores exist for one tile of queries at a time, and only those within
    /// reach of a window are ever computed.
    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape<'_>,
    ) -> Result<(Tensor, Tensor)>;

    /// Gradients of [`Self::attention`] for `q`, `k` and `v`; `out` and `lse` are what the forward gave.
    #[expect(
        clippy::too_many_arguments,
        reason = "the tensors of one operation, named as in the paper"
    )]
    fn attention_backward(
        &self,
        dout: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        shape: &AttentionShape<'_>,
    ) -> Result<(Tensor, Tensor, Tensor)>;

    /// Sum over rows of `−log softmax(logits)[target]` in nats; `logits` is `[rows, V]`.
    /// With `smoothing` ε above 0 each is `(1 − ε)` times that plus ε times the mean of `−log softmax(logits)`.
    fn cross_entropy(&self, logits: &Tensor, targets: &[u32], smoothing: f64) -> Result<f64>;

    /// As [`Self::cross_entropy`], and overwrites `logits` with `scale` times its gradient, so that the two never
    /// exist side by side.
    fn cross_entropy_backward(
        &self,
        logits: &Tensor,
        targets: &[u32],
        smoothing: f64,
        scale: f64,
    ) -> Result<f64>;

    /// `log softmax(logits)[target]` of each row in nats; `logits` is `[rows, V]`.
    fn log_probs(&self, logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>>;

    /// Gradient of [`Self::log_probs`]: overwrites `logits` with `dlogp · (1[target] − softmax(logits))` of each row.
    fn log_probs_backward(&self, logits: &Tensor, targets: &[u32], dlogps: &[f64]) -> Result<()>;

    /// `ln Σ_v softmax(logits)[v]²` of each row: the chance, in nats, that two draws agree.
    fn log_collisions(&self, logits: &Tensor) -> Result<Vec<f64>>;

    /// Whether [`Self::adamw`] is there.
    fn steps_adamw(&self) -> bool {
        false
    }

    /// One step of AdamW (arXiv 1711.05101) where `values` lie, f32 or bf16 of any shape, on f32 `grads` and on the
    /// arrays of both moments: `[n]` f32, or `[n]` codes in u8 and an f32 for each block of 256 (arXiv 2110.02861).
    /// bf16 is rounded by what `rounding` draws.
    fn adamw(
        &self,
        _settings: recipe::AdamW,
        _step: &Step,
        _rounding: Rounding,
        _values: &Tensor,
        _grads: &Tensor,
        _moments: [&[Tensor]; 2],
    ) -> Result<()> {
        Err(EngineError::input("this backend leaves AdamW to the optimizer"))
    }
}
