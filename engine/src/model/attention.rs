//! The first half of a decoder block: attention, its projections and norms, and the residual around them.
//!
//! ```text
//!   x ─┬─ norm ─ q,k,v ─ (norm heads of q, k) ─ rotate ─ attend ─ o ─ (norm) ─(+)─▶
//!      └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The backward pass makes the normed input, and normed and turned heads, again, each in one pass over memory;
//! everything that costs a product is kept (see [`AttentionSaved`]).

use candle_core::Tensor;

use super::block::Pass;
use super::cache::KvCache;
use super::linear::{Linear, LinearSaved};
use super::norm::{Norm, OutNorm, OutNormSaved};
use super::projections::Projections;
use crate::Result;
use crate::ops::{AttentionShape, Onto, Span, Turn};

#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) norm: Norm,
    /// q, k and v.
    pub(crate) qkv: Projections<3>,
    /// Of every head of q, and of k.
    pub(crate) head_norms: Option<[Norm; 2]>,
    pub(crate) o: Linear,
    pub(crate) out_norm: OutNorm,
    /// See [`fleetune_shared::ModelSpec::window`].
    pub(crate) window: Option<usize>,
    /// See [`fleetune_shared::ModelSpec::has_local_rope`].
    pub(crate) local_rope: bool,
}

/// What is kept from the forward to the backward pass: per token the input, q, k, v, attention's output and
/// log-sum-exp, and the norms' rstd. The estimator in `shared` counts exactly these.
#[derive(Debug)]
pub(crate) struct AttentionSaved {
    x: Tensor,
    rstd: Tensor,
    qkv: Vec<LinearSaved>,
    /// Turned, unless heads are normed: then as projected.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    head_rstd: Option<[Tensor; 2]>,
    out: Tensor,
    lse: Tensor,
    o: LinearSaved,
    out_norm: OutNormSaved,
}

impl Attention {
    /// `[T, H]` to `[T, H]`, and what the backward pass needs. With a cache, keys and values of earlier tokens come
    /// from it and those of `x` join it; `index` is this block's place in it.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        x: Tensor,
        cache: Option<(usize, &mut KvCache)>,
    ) -> Result<(Tensor, AttentionSaved)> {
        let ops = pass.ops;
        let (normed, rstd) = self.norm.forward(ops, &x)?;
        let ([q, k, v], qkv) = self.qkv.forward(pass, &normed)?;
        drop(normed);
        let (turned_q, turned_k, head_rstd) = self.turned(pass, &q, &k)?;
        let (out, lse) = match cache {
            None => ops.attention(&turned_q, &turned_k, &v, &self.shape(pass, &pass.spans))?,
            Some((index, cache)) => {
                let (keys, values) = cache.append(index, turned_k, v.clone(), self.window)?;
                let span = Span { k: 0..keys.dim(0)?, ..Span::causal(0..q.dim(0)?) };
                ops.attention(&turned_q, &keys, &values, &self.shape(pass, &[span]))?
            }
        };
        drop(turned_q);
        let (y, o, out_norm) = self.out_norm.forward(pass, &self.o, &out, &x)?;
        let saved = AttentionSaved { x, rstd, qkv, q, k, v, head_rstd, out, lse, o, out_norm };
        Ok((y, saved))
    }

    /// From `dy` (`[T, H]`) to the input's gradient, if that is wanted, adding to the gradients of what learns.
    /// Nothing is computed below the lowest thing that learns.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        dy: Tensor,
        saved: AttentionSaved,
        want_dx: bool,
    ) -> Result<Option<Tensor>> {
        let ops = pass.ops;
        let want_normed = want_dx || self.norm.weight.trained();
        let want_heads = want_normed || self.qkv.trained();
        let want_out = want_heads || self.head_norms_trained();
        let want_o = want_out || self.o.trained();
        if !want_o && !self.out_norm.trained() {
            return Ok(None);
        }

        let AttentionSaved { x, rstd, qkv, q, k, v, head_rstd, out, lse, o, out_norm } = saved;
        let do_proj = self.out_norm.backward(ops, &dy, out_norm)?;
        if !want_o {
            return Ok(None);
        }
        let dout = self.o.backward(pass, &do_proj, &out, &o, want_out.then_some(Onto::New))?;
        drop(do_proj);
        let Some(dout) = dout else { return Ok(None) };
        let (dq, dk, dv) = {
            let (q, k) = match &head_rstd {
                None => (q.clone(), k.clone()),
                Some(_) => {
                    let (q, k, _) = self.turned(pass, &q, &k)?;
                    (q, k)
                }
            };
            let shape = self.shape(pass, &pass.spans);
            ops.attention_backward(&dout, &q, &k, &v, &out, &lse, &shape)?
        };
        drop((dout, v, out, lse));
        let rotary = pass.rotary(self.local_rope);
        ops.rotate(&dq, rotary, Turn::Back)?;
        ops.rotate(&dk, rotary, Turn::Back)?;
        let (dq, dk) = match (&mut self.head_norms, head_rstd) {
            (Some([q_norm, k_norm]), Some([q_rstd, k_rstd])) => (
                q_norm.backward_heads(ops, &dq, &q, &q_rstd)?,
                k_norm.backward_heads(ops, &dk, &k, &k_rstd)?,
            ),
            _ => (dq, dk),
        };
        drop((q, k));
        if !want_heads {
            return Ok(None);
        }
        let (normed, _) = self.norm.forward(ops, &x)?;
        let dnormed = self.qkv.backward(pass, [dq, dk, dv], &normed, &qkv, want_normed)?;
        drop(normed);
        self.norm.backward(ops, dnormed.as_ref(), &x, &rstd, &dy)?;
        Ok(want_dx.then_some(dy))
    }

    /// q and k with their heads normed, if the architecture does that, and turned; and the norms' rstd. Without norms
    /// they are turned where they are.
    fn turned(
        &self,
        pass: &Pass<'_>,
        q: &Tensor,
        k: &Tensor,
    ) -> Result<(Tensor, Tensor, Option<[Tensor; 2]>)> {
        let (q, k, rstd) = match &self.head_norms {
            None => (q.clone(), k.clone(), None),
            Some([q_norm, k_norm]) => {
                let (q, q_rstd) = q_norm.forward_heads(pass.ops, q)?;
                let (k, k_rstd) = k_norm.forward_heads(pass.ops, k)?;
                (q, k, Some([q_rstd, k_rstd]))
            }
        };
        let rotary = pass.rotary(self.local_rope);
        pass.ops.rotate(&q, rotary, Turn::Forth)?;
        pass.ops.rotate(&k, rotary, Turn::Forth)?;
        Ok((q, k, rstd))
    }

    fn shape<'a>(&self, pass: &Pass<'_>, spans: &'a [Span]) -> AttentionShape<'a> {
        let spec = pass.spec;
        AttentionShape {
            heads: spec.num_attention_heads,
            kv_heads: spec.num_key_value_heads,
            head_dim: spec.head_dim,
            spans,
            window: self.window,
            scale: spec.attention_scale(),
            soft_cap: spec.attn_logit_softcapping,
        }
    }

    fn head_norms_trained(&self) -> bool {
        self.head_norms.iter().flatten().any(|norm| norm.weight.trained())
    }

    /// Whether anything here learns.
    pub(crate) fn trained(&self) -> bool {
        self.norm.weight.trained()
            || self.qkv.trained()
            || self.head_norms_trained()
            || self.o.trained()
            || self.out_norm.trained()
    }
}
