//! One decoder block of the Llama family.
//!
//! ```text
//!   x ─┬─ norm ─ q,k,v ─ rotate ─ attention ─ o ─(+)─┬─ norm ─ gate,up ─ swiglu ─ down ─(+)─▶
//!      └──────────────────────────────────────────┘  └──────────────────────────────────┘
//! ```
//!
//! The backward pass makes both normed inputs and the activation again, each in one pass over memory; everything
//! that costs a product is kept (see [`Saved`]).

use candle_core::Tensor;
use fleetune_shared::ModelSpec;

use super::cache::KvCache;
use super::linear::{Linear, LinearSaved};
use super::trainable::{Parameter, Trainable};
use crate::Result;
use crate::ops::{AttentionShape, Backend, Rotary, Span, Turn};

/// The linear layers of a block, in the order of [`ModelSpec::linears`].
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) input_norm: Parameter,
    pub(crate) post_attention_norm: Parameter,
    /// In the order of [`ModelSpec::linears`].
    pub(crate) linears: [Linear; 7],
}

/// What all blocks of one pass share.
pub(crate) struct Pass<'a> {
    pub(crate) ops: &'a dyn Backend,
    pub(crate) spec: &'a ModelSpec,
    /// Off, the base answers as if nothing were laid beside it: the reference of preference tuning.
    pub(crate) adapters: bool,
    pub(crate) rotary: Rotary,
    pub(crate) spans: Vec<Span>,
}

impl Pass<'_> {
    fn attention(&self) -> AttentionShape<'_> {
        AttentionShape {
            heads: self.spec.num_attention_heads,
            kv_heads: self.spec.num_key_value_heads,
            head_dim: self.spec.head_dim,
            spans: &self.spans,
        }
    }
}

/// What a block keeps from its forward to its backward pass, in f32: per token two residuals, q, k, v, the attention's
/// output and log-sum-exp, gate and up, two norms' rstd, and `r` per adapted linear. The estimator in `shared` counts
/// exactly these.
#[derive(Debug)]
pub(crate) struct Saved {
    x: Tensor,
    rstd: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    middle: Tensor,
    middle_rstd: Tensor,
    gate: Tensor,
    up: Tensor,
    linears: [LinearSaved; 7],
}

impl Block {
    /// `[T, H]` to `[T, H]`, and what the backward pass needs. With a cache, keys and values of earlier tokens come
    /// from it and those of `x` join it; `index` is this block's place in it.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        x: Tensor,
        cache: Option<(usize, &mut KvCache)>,
    ) -> Result<(Tensor, Saved)> {
        let (ops, eps) = (pass.ops, pass.spec.rms_norm_eps);
        let mut linears: [LinearSaved; 7] = Default::default();
        let mut linear = |index: usize, x: &Tensor| -> Result<Tensor> {
            let (y, kept) = self.linears[index].forward(pass, x)?;
            linears[index] = kept;
            Ok(y)
        };

        let (normed, rstd) = ops.rms_norm(&x, self.input_norm.value(), eps)?;
        let (q, k, v) = (linear(Q, &normed)?, linear(K, &normed)?, linear(V, &normed)?);
        drop(normed);
        ops.rotate(&q, &pass.rotary, Turn::Forth)?;
        ops.rotate(&k, &pass.rotary, Turn::Forth)?;
        let (k, v) = match cache {
            None => (k, v),
            Some((index, cache)) => cache.append(index, k, v)?,
        };
        let (out, lse) = ops.attention(&q, &k, &v, &pass.attention())?;
        let middle = linear(O, &out)?;
        ops.add(&middle, &x)?;

        let (normed, middle_rstd) = ops.rms_norm(&middle, self.post_attention_norm.value(), eps)?;
        let (gate, up) = (linear(GATE, &normed)?, linear(UP, &normed)?);
        drop(normed);
        let y = linear(DOWN, &ops.swiglu(&gate, &up)?)?;
        ops.add(&y, &middle)?;
        let saved = Saved { x, rstd, q, k, v, out, lse, middle, middle_rstd, gate, up, linears };
        Ok((y, saved))
    }

    /// From `dy` (`[T, H]`) to the input's gradient, if that is wanted, adding to the gradients of what learns.
    /// Nothing is computed below the lowest thing that learns.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        dy: Tensor,
        saved: Saved,
        want_dx: bool,
    ) -> Result<Option<Tensor>> {
        let (ops, eps) = (pass.ops, pass.spec.rms_norm_eps);
        let Saved { x, rstd, q, k, v, out, lse, middle, middle_rstd, gate, up, linears } = saved;
        let inputs_learn = want_dx || self.input_norm.trained();
        let want_qkv = inputs_learn || self.linears[Q..=V].iter().any(Linear::trained);
        let want_middle = want_qkv || self.linears[O].trained();
        let want_mlp_input = want_middle || self.post_attention_norm.trained();
        let want_gate = want_mlp_input || self.linears[GATE..=UP].iter().any(Linear::trained);

        let activation = ops.swiglu(&gate, &up)?;
        let dactivation =
            self.linears[DOWN].backward(pass, &dy, &activation, &linears[DOWN], want_gate)?;
        drop(activation);
        let Some(dactivation) = dactivation else { return Ok(None) };
        let (dgate, dup) = ops.swiglu_backward(&gate, &up, &dactivation)?;
        drop((gate, up, dactivation));
        let (normed, _) = ops.rms_norm(&middle, self.post_attention_norm.value(), eps)?;
        let dnormed = sum(
            ops,
            [
                self.linears[GATE].backward(
                    pass,
                    &dgate,
                    &normed,
                    &linears[GATE],
                    want_mlp_input,
                )?,
                self.linears[UP].backward(pass, &dup, &normed, &linears[UP], want_mlp_input)?,
            ],
        )?;
        drop((normed, dgate, dup));
        // From here on `dy` is the gradient of the residual between the two halves.
        norm_backward(ops, &mut self.post_attention_norm, dnormed, &middle, &middle_rstd, &dy)?;
        if !want_middle {
            return Ok(None);
        }

        let dout = self.linears[O].backward(pass, &dy, &out, &linears[O], want_qkv)?;
        let Some(dout) = dout else { return Ok(None) };
        let (dq, dk, dv) =
            ops.attention_backward(&dout, &q, &k, &v, &out, &lse, &pass.attention())?;
        drop((dout, q, k, v, out, lse));
        ops.rotate(&dq, &pass.rotary, Turn::Back)?;
        ops.rotate(&dk, &pass.rotary, Turn::Back)?;
        let (normed, _) = ops.rms_norm(&x, self.input_norm.value(), eps)?;
        let dnormed = sum(
            ops,
            [
                self.linears[Q].backward(pass, &dq, &normed, &linears[Q], inputs_learn)?,
                self.linears[K].backward(pass, &dk, &normed, &linears[K], inputs_learn)?,
                self.linears[V].backward(pass, &dv, &normed, &linears[V], inputs_learn)?,
            ],
        )?;
        norm_backward(ops, &mut self.input_norm, dnormed, &x, &rstd, &dy)?;
        Ok(want_dx.then_some(dy))
    }

    /// Whether anything here learns.
    pub(crate) fn trained(&self) -> bool {
        self.input_norm.trained()
            || self.post_attention_norm.trained()
            || self.linears.iter().any(Linear::trained)
    }

    /// Every tensor of the base, in a fixed order.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let linears = self.linears.iter().flat_map(|l| std::iter::once(&l.weight).chain(&l.bias));
        [&self.input_norm, &self.post_attention_norm].into_iter().chain(linears)
    }

    /// As [`Self::parameters`].
    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let linears =
            self.linears.iter_mut().flat_map(|l| std::iter::once(&mut l.weight).chain(&mut l.bias));
        [&mut self.input_norm, &mut self.post_attention_norm].into_iter().chain(linears)
    }

    /// What learns here, in a fixed order.
    pub(crate) fn trainables_mut(&mut self) -> impl Iterator<Item = &mut Trainable> {
        let norms = [&mut self.input_norm, &mut self.post_attention_norm];
        let norms = norms.into_iter().filter_map(Parameter::trained_mut);
        norms.chain(self.linears.iter_mut().flat_map(Linear::trainables_mut))
    }
}

/// The sum of those that were wanted.
fn sum<const N: usize>(ops: &dyn Backend, terms: [Option<Tensor>; N]) -> Result<Option<Tensor>> {
    let mut terms = terms.into_iter().flatten();
    let Some(sum) = terms.next() else { return Ok(None) };
    for term in terms {
        ops.add(&sum, &term)?;
    }
    Ok(Some(sum))
}

/// Adds the norm's input gradient to `dx`, and its weight's to the weight.
pub(super) fn norm_backward(
    ops: &dyn Backend,
    norm: &mut Parameter,
    dy: Option<Tensor>,
    x: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
) -> Result<()> {
    let Some(dy) = dy else { return Ok(()) };
    let dweight = ops.rms_norm_backward(&dy, x, norm.value(), rstd, dx, norm.trained())?;
    if let (Some(weight), Some(grad)) = (norm.trained_mut(), dweight) {
        weight.accumulate(ops, grad)?;
    }
    Ok(())
}
