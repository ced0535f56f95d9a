//! Causal attention with grouped queries over examples laid end to end (FlashAttention-2, arXiv 2307.08691).
//!
//! One task is one example and one key head with the query heads that share it. It walks its queries in tiles: a
//! tile's scores against all keys up to it are the only thing that is square, so memory grows with the length, not
//! with its square. Rows of a tile are (token, head), as they lie in the tensors.

use candle_core::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::reduce::max;
use crate::Result;
use crate::ops::slices::{edit, tensor, view};
use crate::ops::{AttentionShape, Span};

/// Rows of a tile: as many as keep a tile of 512 keys in the second cache.
const TILE_ROWS: usize = 192;

/// An example and a key head, and how they lie in the tensors.
struct Task<'a> {
    span: &'a Span,
    kv_head: usize,
    group: usize,
    head_dim: usize,
}

impl Task<'_> {
    fn all<'a>(shape: &AttentionShape<'a>) -> Vec<Task<'a>> {
        let group = shape.heads / shape.kv_heads;
        let task = |span| {
            (0..shape.kv_heads).map(move |kv_head| Task {
                span,
                kv_head,
                group,
                head_dim: shape.head_dim,
            })
        };
        shape.spans.iter().flat_map(task).collect()
    }

    fn queries(&self) -> usize {
        self.span.q.len()
    }

    /// Numbers of one token's query heads.
    fn width(&self) -> usize {
        self.group * self.head_dim
    }

    /// Tiles as `(first query, end query, keys the last of them sees)`.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let tile = (TILE_ROWS / self.group).max(1);
        let past = self.span.k.len() - self.queries();
        let queries = self.queries();
        (0..queries).step_by(tile).map(move |from| {
            let to = (from + tile).min(queries);
            (from, to, past + to)
        })
    }

    /// Keys seen by row `row` of a tile that begins at query `from`.
    fn seen(&self, from: usize, row: usize) -> usize {
        self.span.k.len() - self.queries() + from + row / self.group + 1
    }

    /// The tile's rows of a query-shaped tensor `[T, heads · head_dim]`, times `scale`: `[rows, head_dim]`.
    fn tile(
        &self,
        all: &[f32],
        heads: usize,
        from: usize,
        to: usize,
        scale: f32,
    ) -> Result<Tensor> {
        let (width, stride) = (self.width(), heads * self.head_dim);
        let mut rows = Vec::with_capacity((to - from) * width);
        for t in from..to {
            let row = &all[(self.span.q.start + t) * stride + self.kv_head * width..][..width];
            rows.extend(row.iter().map(|x| x * scale));
        }
        tensor(rows, &[(to - from) * self.group, self.head_dim])
    }

    /// The first `keys` rows of this task's head in a key-shaped tensor: a view `[keys, head_dim]`.
    fn keys(&self, all: &Tensor, keys: usize) -> Result<Tensor> {
        let head = all.narrow(1, self.kv_head * self.head_dim, self.head_dim)?;
        Ok(head.narrow(0, self.span.k.start, keys)?)
    }
}

pub(super) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = q.dims2()?;
    let q = view(q)?;
    let q = &*q;
    let tasks = Task::all(shape);
    let done: Vec<(Vec<f32>, Vec<f32>)> =
        tasks.par_iter().map(|task| forward_one(task, q, k, v, shape)).collect::<Result<_>>()?;
    let (mut out, mut lse) = (vec![0.0; tokens * width], vec![0.0; tokens * shape.heads]);
    for (task, (task_out, task_lse)) in tasks.iter().zip(&done) {
        scatter(&mut out, task_out, task.span.q.start, task.kv_head, width, task.width());
        scatter(&mut lse, task_lse, task.span.q.start, task.kv_head, shape.heads, task.group);
    }
    Ok((tensor(out, &[tokens, width])?, tensor(lse, &[tokens, shape.heads])?))
}

/// Output `[queries, group · head_dim]` and log-sum-exp `[queries, group]` of one task.
fn forward_one(
    task: &Task<'_>,
    q: &[f32],
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut out = Vec::with_capacity(task.queries() * task.width());
    let mut lse = Vec::with_capacity(task.queries() * task.group);
    for (from, to, keys) in task.tiles() {
        let q = task.tile(q, shape.heads, from, to, scale(shape))?;
        let scores = q.matmul(&task.keys(k, keys)?.t()?)?;
        edit(&scores, |scores| {
            for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                let (seen, hidden) = row.split_at_mut(task.seen(from, r));
                lse.push(softmax(seen));
                hidden.fill(0.0);
            }
        })?;
        out.extend_from_slice(&view(&scores.matmul(&task.keys(v, keys)?)?)?);
    }
    Ok((out, lse))
}

/// Softmax in place; gives the log-sum-exp.
fn softmax(row: &mut [f32]) -> f32 {
    let max = max(row);
    row.iter_mut().for_each(|x| *x = exp(*x - max));
    let sum: f32 = row.chunks(64).map(|run| run.iter().sum::<f32>()).sum();
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= inverse);
    max + sum.ln()
}

fn scale(shape: &AttentionShape<'_>) -> f32 {
    (1.0 / (shape.head_dim as f64).sqrt()) as f32
}

/// Writes one task's rows of `part` numbers to their place in rows of `width`.
fn scatter(all: &mut [f32], rows: &[f32], first: usize, slot: usize, width: usize, part: usize) {
    for (t, row) in rows.chunks_exact(part).enumerate() {
        all[(first + t) * width + slot * part..][..part].copy_from_slice(row);
    }
}

/// With P = exp(S − lse) and D = rowsum(dO ∘ O): dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − D), dQ = dS·K, dK = dSᵀ·Q.
pub(super) fn backward(
    dout: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (queries, width) = q.dims2()?;
    let (keys, kv_width) = k.dims2()?;
    let (dout, q, out, lse) = (view(dout)?, view(q)?, view(out)?, view(lse)?);
    let rows = Rows { dout: &dout, q: &q, out: &out, lse: &lse };
    let tasks = Task::all(shape);
    let done: Vec<[Vec<f32>; 3]> = tasks
        .par_iter()
        .map(|task| backward_one(task, &rows, k, v, shape))
        .collect::<Result<_>>()?;
    let mut dq = vec![0.0; queries * width];
    let (mut dk, mut dv) = (vec![0.0; keys * kv_width], vec![0.0; keys * kv_width]);
    for (task, [task_dq, task_dk, task_dv]) in tasks.iter().zip(&done) {
        let (head, kv) = (task.kv_head, task.head_dim);
        scatter(&mut dq, task_dq, task.span.q.start, head, width, task.width());
        scatter(&mut dk, task_dk, task.span.k.start, head, kv_width, kv);
        scatter(&mut dv, task_dv, task.span.k.start, head, kv_width, kv);
    }
    let kv_shape = [keys, kv_width];
    Ok((tensor(dq, &[queries, width])?, tensor(dk, &kv_shape)?, tensor(dv, &kv_shape)?))
}

/// What the backward pass reads row by row.
struct Rows<'a> {
    dout: &'a [f32],
    q: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
}

fn backward_one(
    task: &Task<'_>,
    rows: &Rows<'_>,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<[Vec<f32>; 3]> {
    let scale = scale(shape);
    let mut dq = Vec::with_capacity(task.queries() * task.width());
    let mut dk = vec![0.0; task.span.k.len() * task.head_dim];
    let mut dv = dk.clone();
    for (from, to, keys) in task.tiles() {
        let q = task.tile(rows.q, shape.heads, from, to, scale)?;
        let dout = task.tile(rows.dout, shape.heads, from, to, 1.0)?;
        let out = task.tile(rows.out, shape.heads, from, to, 1.0)?;
        let (key, value) = (task.keys(k, keys)?, task.keys(v, keys)?);

        let probabilities = q.matmul(&key.t()?)?;
        edit(&probabilities, |scores| {
            for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                let (t, head) = (from + r / task.group, r % task.group);
                let at = (task.span.q.start + t) * shape.heads + task.kv_head * task.group + head;
                let (seen, hidden) = row.split_at_mut(task.seen(from, r));
                let lse = rows.lse[at];
                seen.iter_mut().for_each(|x| *x = exp(*x - lse));
                hidden.fill(0.0);
            }
        })?;
        add(&mut dv, &probabilities.t()?.matmul(&dout)?)?;

        let dscores = dout.matmul(&value.t()?)?;
        {
            let (dout, out, p) = (view(&dout)?, view(&out)?, view(&probabilities)?);
            edit(&dscores, |dscores| {
                for (r, ds) in dscores.chunks_exact_mut(keys).enumerate() {
                    let head = r * task.head_dim..(r + 1) * task.head_dim;
                    let delta: f32 =
                        dout[head.clone()].iter().zip(&out[head]).map(|(a, b)| a * b).sum();
                    for (ds, p) in ds.iter_mut().zip(&p[r * keys..]) {
                        *ds = p * (*ds - delta);
                    }
                }
            })?;
        }
        dq.extend(view(&dscores.matmul(&key)?)?.iter().map(|x| x * scale));
        // q already carries the scale.
        add(&mut dk, &dscores.t()?.matmul(&q)?)?;
    }
    Ok([dq, dk, dv])
}

/// Adds a product to the rows it covers, the first ones.
fn add(sum: &mut [f32], term: &Tensor) -> Result<()> {
    for (sum, term) in sum.iter_mut().zip(view(term)?.iter()) {
        *sum += term;
    }
    Ok(())
}
