//! Causal attention as products by cuBLAS and a softmax between them.
//!
//! An example is cut into tiles of queries, as many as keep the scores within a budget. All key heads share a product:
//! tensors are turned to `[kv_heads, tokens · group, head_dim]` first, `group` being the query heads that share a key
//! head. A launch or a dozen for each example and tile: examples that are very short keep a card waiting.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::launch::{Arg, Card, WARP, blocks, refuse_unless, wants};
use super::product::product;
use crate::Result;
use crate::ops::{AttentionShape, Span};

/// Threads of a block that are one row's in `dot_each_row`.
const ROWS_OF_A_BLOCK: usize = super::launch::THREADS / WARP;

/// One example, and how it lies in the tensors.
struct Example<'a> {
    card: &'a dyn Card,
    span: &'a Span,
    shape: &'a AttentionShape<'a>,
    tile_scores: usize,
}

/// Some queries of an example, and the keys any of them sees.
struct Tile {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Example<'_> {
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    fn window(&self) -> usize {
        self.shape.window.unwrap_or(usize::MAX).min(u32::MAX as usize)
    }

    /// Keys that query `t` sees.
    fn seen(&self, t: usize) -> Range<usize> {
        let end = self.span.lead() + t + 1;
        end.saturating_sub(self.window())..end
    }

    fn tiles(&self) -> impl Iterator<Item = Tile> {
        let queries = self.span.q.len();
        let widest = self.span.keys().min(self.window().saturating_add(queries)).max(1);
        let at_once = (self.tile_scores / (self.shape.heads * widest)).max(1);
        (0..queries).step_by(at_once).map(move |from| {
            let to = (from + at_once).min(queries);
            Tile { queries: from..to, keys: self.seen(from).start..self.seen(to - 1).end }
        })
    }

    /// Rows `rows` of `[T, kv_heads · group · width]` as `[kv_heads, rows · group, width]`.
    fn heads_first(&self, all: &Tensor, rows: &Range<usize>, group: usize) -> Result<Tensor> {
        let (count, kv_heads) = (rows.len(), self.shape.kv_heads);
        let width = all.dim(1)? / (kv_heads * group);
        let heads = all.narrow(0, rows.start, count)?.reshape((count, kv_heads, group * width))?;
        Ok(heads.transpose(0, 1)?.contiguous()?.reshape((kv_heads, count * group, width))?)
    }

    /// The span's rows of a key-shaped tensor: `[kv_heads, keys, head_dim]`.
    fn keys_first(&self, all: &Tensor) -> Result<Tensor> {
        let Span { prefix, k, .. } = self.span;
        let own = self.heads_first(all, k, 1)?;
        if prefix.is_empty() {
            return Ok(own);
        }
        Ok(Tensor::cat(&[self.heads_first(all, prefix, 1)?, own], 1)?)
    }

    /// The way back: `[kv_heads, tokens · group, width]` as `[tokens, kv_heads · group · width]`.
    fn tokens_first(&self, tokens: usize, heads: &Tensor) -> Result<Tensor> {
        let kv_heads = self.shape.kv_heads;
        let width = heads.elem_count() / (tokens * kv_heads);
        let rows = heads.contiguous()?.reshape((kv_heads, tokens, width))?;
        Ok(rows.transpose(0, 1)?.contiguous()?.reshape((tokens, ()))?)
    }

    /// Puts what the queries have into their rows of `all`.
    fn set_queries(&self, all: &Tensor, heads: &Tensor) -> Result<()> {
        let q = &self.span.q;
        Ok(all.slice_set(&self.tokens_first(q.len(), heads)?, 0, q.start)?)
    }

    /// Adds what the keys have to their rows of `all`: keys of a prefix are those of several examples.
    fn add_to_keys(&self, all: &Tensor, heads: &Tensor) -> Result<()> {
        let Span { prefix, k, .. } = self.span;
        let tokens = self.tokens_first(self.span.keys(), heads)?;
        for (rows, from) in [(prefix, 0), (k, prefix.len())] {
            if !rows.is_empty() {
                let term = tokens.narrow(0, from, rows.len())?;
                let sum = (all.narrow(0, rows.start, rows.len())? + term)?;
                all.slice_set(&sum, 0, rows.start)?;
            }
        }
        Ok(())
    }

    /// The rows of a tile in a tensor that is heads first.
    fn queries(&self, heads: &Tensor, tile: &Tile) -> Result<Tensor> {
        let group = self.group();
        Ok(heads.narrow(1, tile.queries.start * group, tile.queries.len() * group)?)
    }

    /// The arguments that say which score is whose, which follow a kernel's tensors.
    fn geometry(&self, tile: &Tile) -> Result<[Arg<'static>; 9]> {
        Ok([
            Arg::size(tile.queries.len() * self.group())?,
            Arg::size(tile.keys.len())?,
            Arg::size(self.group())?,
            Arg::size(tile.queries.start)?,
            Arg::size(self.span.lead())?,
            Arg::size(self.window())?,
            Arg::size(tile.keys.start)?,
            Arg::F32(self.shape.scale as f32),
            Arg::F32(self.shape.soft_cap.unwrap_or(0.0) as f32),
        ])
    }

    /// Rows of a tile's scores, which are a kernel's blocks.
    fn rows(&self, tile: &Tile) -> usize {
        self.shape.heads * tile.queries.len()
    }

    fn forward(&self, (q, k, v): (&Tensor, &Tensor, &Tensor)) -> Result<(Tensor, Tensor)> {
        let q = self.heads_first(q, &self.span.q, self.group())?;
        let k = self.keys_first(k)?;
        let v = self.keys_first(v)?;
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for tile in self.tiles() {
            let keys = |all: &Tensor| all.narrow(1, tile.keys.start, tile.keys.len());
            let scores = product(&self.queries(&q, &tile)?, &keys(&k)?.t()?)?;
            let rows = tile.queries.len() * self.group();
            let sums = self.card.zeros(&[self.shape.kv_heads, rows, 1], DType::F32)?;
            let mut args = vec![Arg::Out(&scores), Arg::Out(&sums)];
            args.extend(self.geometry(&tile)?);
            self.card.launch("attention_softmax", self.rows(&tile), &args)?;
            out.push(product(&scores, &keys(&v)?)?);
            lse.push(sums);
        }
        Ok((Tensor::cat(&out, 1)?, Tensor::cat(&lse, 1)?))
    }

    /// dQ, dK and dV, heads first.
    fn backward(
        &self,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        (dout, out, lse): (&Tensor, &Tensor, &Tensor),
    ) -> Result<[Tensor; 3]> {
        let group = self.group();
        let of_queries = |all: &Tensor| self.heads_first(all, &self.span.q, group);
        let (q, dout, out, lse) =
            (of_queries(q)?, of_queries(dout)?, of_queries(out)?, of_queries(lse)?);
        let k = self.keys_first(k)?;
        let v = self.keys_first(v)?;
        let delta = self.deltas(&dout, &out)?;
        let dk = self.card.zeros(k.dims(), DType::F32)?;
        let dv = self.card.zeros(v.dims(), DType::F32)?;
        let mut dq = Vec::new();
        for tile in self.tiles() {
            let keys = |all: &Tensor| all.narrow(1, tile.keys.start, tile.keys.len());
            let (q, dout) = (self.queries(&q, &tile)?, self.queries(&dout, &tile)?);
            let lse = self.queries(&lse, &tile)?.contiguous()?;
            let delta = self.queries(&delta, &tile)?.contiguous()?;
            let scores = product(&q, &keys(&k)?.t()?)?;
            let dscores = product(&dout, &keys(&v)?.t()?)?;
            let mut args =
                vec![Arg::Out(&scores), Arg::Out(&dscores), Arg::In(&lse), Arg::In(&delta)];
            args.extend(self.geometry(&tile)?);
            self.card.launch("attention_backward", self.rows(&tile), &args)?;
            self.add_keys(&dv, &product(&scores.t()?, &dout)?, &tile)?;
            dq.push(product(&dscores, &keys(&k)?)?);
            self.add_keys(&dk, &product(&dscores.t()?, &q)?, &tile)?;
        }
        Ok([Tensor::cat(&dq, 1)?, dk, dv])
    }

    /// rowsum(dO ∘ O): `[kv_heads, tokens · group, 1]`.
    fn deltas(&self, dout: &Tensor, out: &Tensor) -> Result<Tensor> {
        let (kv_heads, rows, width) = out.dims3()?;
        let deltas = self.card.zeros(&[kv_heads, rows, 1], DType::F32)?;
        let rows = kv_heads * rows;
        let args =
            [Arg::In(dout), Arg::In(out), Arg::Out(&deltas), Arg::size(rows)?, Arg::size(width)?];
        self.card.launch("dot_each_row", rows.div_ceil(ROWS_OF_A_BLOCK), &args)?;
        Ok(deltas)
    }

    /// Adds a tile's share to the keys it sees.
    fn add_keys(&self, sum: &Tensor, term: &Tensor, tile: &Tile) -> Result<()> {
        let (_, keys, width) = sum.dims3()?;
        let count = term.elem_count();
        let numbers = |of: usize| Arg::U64((of * width) as u64);
        let args = [
            Arg::Out(sum),
            Arg::In(term),
            Arg::U64(count as u64),
            numbers(tile.keys.len()),
            numbers(keys),
            numbers(tile.keys.start),
        ];
        self.card.launch("add_slices", blocks(count), &args)
    }
}

/// The examples that have a query, after a look at the tensors.
fn examples<'a>(
    card: &'a dyn Card,
    tile_scores: usize,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    shape: &'a AttentionShape<'a>,
) -> Result<Vec<Example<'a>>> {
    wants(q, &[q.dim(0)?, shape.heads * shape.head_dim])?;
    for keys in [k, v] {
        wants(keys, &[k.dim(0)?, shape.kv_heads * shape.head_dim])?;
    }
    let (queries, keys) = (q.dim(0)?, k.dim(0)?);
    for Span { q, prefix, k } in shape.spans {
        let within = q.end <= queries && prefix.end <= keys && k.end <= keys;
        refuse_unless(within && q.len() <= k.len(), || {
            format!("a span of queries {q:?} and keys {prefix:?}, {k:?} in {queries} and {keys}")
        })?;
    }
    let spans = shape.spans.iter().filter(|span| !span.q.is_empty());
    Ok(spans.map(|span| Example { card, span, shape, tile_scores }).collect())
}

pub(super) fn forward(
    card: &dyn Card,
    tile_scores: usize,
    qkv: (&Tensor, &Tensor, &Tensor),
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor)> {
    let out = card.zeros(qkv.0.dims(), DType::F32)?;
    let lse = card.zeros(&[qkv.0.dim(0)?, shape.heads], DType::F32)?;
    for example in examples(card, tile_scores, qkv, shape)? {
        let (out_here, lse_here) = example.forward(qkv)?;
        example.set_queries(&out, &out_here)?;
        example.set_queries(&lse, &lse_here)?;
    }
    Ok((out, lse))
}

pub(super) fn backward(
    card: &dyn Card,
    tile_scores: usize,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    (dout, out, lse): (&Tensor, &Tensor, &Tensor),
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor, Tensor)> {
    wants(dout, q.dims())?;
    wants(out, q.dims())?;
    wants(lse, &[q.dim(0)?, shape.heads])?;
    let dq = card.zeros(q.dims(), DType::F32)?;
    let dk = card.zeros(k.dims(), DType::F32)?;
    let dv = card.zeros(v.dims(), DType::F32)?;
    for example in examples(card, tile_scores, (q, k, v), shape)? {
        let [dq_here, dk_here, dv_here] = example.backward((q, k, v), (dout, out, lse))?;
        example.set_queries(&dq, &dq_here)?;
        example.add_to_keys(&dk, &dk_here)?;
        example.add_to_keys(&dv, &dv_here)?;
    }
    Ok((dq, dk, dv))
}
