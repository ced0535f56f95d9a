//! Causal attention with grouped queries over examples laid end to end (FlashAttention-2, arXiv 2307.08691).
//!
//! One task is one example and one key head with the query heads that share it. It walks its queries in tiles: a
//! tile's scores against the keys it can see are the only thing that is square, so memory grows with the length, not
//! with its square, and under a sliding window neither does time. Rows of a tile are (token, head), as they lie in the
//! tensors.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::product::{Cores, matmul};
use super::reduce::max;
use super::rows::plus;
use super::tanh::{capped, slope};
use crate::Result;
use crate::ops::number::Number;
use crate::ops::slices::{edit, tensor, view};
use crate::ops::wide::wide;
use crate::ops::{AttentionShape, Span};

/// Rows of a tile: as many as keep a tile of 512 keys in the second cache.
const TILE_ROWS: usize = 192;
/// Queries that are worth a part of their own.
const PART: usize = 1024;
/// Parts of a task at most: enough for cores to share one long example, and few, for each has gradients for all keys it
/// sees.
const PARTS: usize = 4;

/// An example, or a part of one, and a key head, and how they lie in the tensors.
pub(crate) struct Task {
    pub(crate) span: Span,
    pub(crate) kv_head: usize,
    pub(crate) group: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: usize,
}

impl Task {
    fn all(shape: &AttentionShape<'_>) -> Vec<Self> {
        let group = shape.heads / shape.kv_heads;
        let tasks = |span| {
            (0..shape.kv_heads).map(move |kv_head| Self {
                span: Span::clone(span),
                kv_head,
                group,
                head_dim: shape.head_dim,
                window: shape.window.unwrap_or(usize::MAX),
            })
        };
        shape.spans.iter().flat_map(tasks).collect()
    }

    /// The task cut into runs of queries, each with the keys it sees. No cut depends on the number of cores.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let Span { q, prefix, k } = &self.span;
        let queries = q.len().div_ceil(PARTS).max(PART);
        let part = |from: usize| {
            let to = (from + queries).min(q.len());
            let span = Span {
                q: q.start + from..q.start + to,
                prefix: prefix.clone(),
                k: k.start..k.end - (q.len() - to),
            };
            Self { span, ..*self }
        };
        (0..q.len()).step_by(queries).map(part).collect()
    }

    pub(crate) fn queries(&self) -> usize {
        self.span.q.len()
    }

    /// Numbers of one token's query heads.
    pub(crate) fn width(&self) -> usize {
        self.group * self.head_dim
    }

    /// Keys that query `t` of the task sees.
    pub(crate) fn seen(&self, t: usize) -> Range<usize> {
        let end = self.span.lead() + t + 1;
        end.saturating_sub(self.window)..end
    }

    /// Tiles as `(first query, end query, keys any of them sees)`.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
        let tile = (TILE_ROWS / self.group).max(1);
        let queries = self.queries();
        (0..queries).step_by(tile).map(move |from| {
            let to = (from + tile).min(queries);
            (from, to, self.seen(from).start..self.seen(to - 1).end)
        })
    }

    /// The scores that row `row` of a tile sees, and where in `scores` they lie; the rest becomes 0. The tile begins at
    /// query `from` and key `first`.
    fn split<'r>(
        &self,
        row: usize,
        from: usize,
        first: usize,
        scores: &'r mut [f32],
    ) -> (&'r mut [f32], Range<usize>) {
        let seen = self.seen(from + row / self.group);
        let seen = seen.start - first..seen.end - first;
        scores[..seen.start].fill(0.0);
        scores[seen.end..].fill(0.0);
        (&mut scores[seen.clone()], seen)
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

    /// This task's head of a key-shaped tensor, `[keys, head_dim]`: a view, or a copy where keys lie in two places.
    fn head(&self, all: &Tensor) -> Result<Tensor> {
        let head = all.narrow(1, self.kv_head * self.head_dim, self.head_dim)?;
        let rows = |rows: &Range<usize>| head.narrow(0, rows.start, rows.len());
        let Span { prefix, k, .. } = &self.span;
        Ok(if prefix.is_empty() { rows(k)? } else { Tensor::cat(&[rows(prefix)?, rows(k)?], 0)? })
    }
}

pub(crate) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor)> {
    let numbers = view(q)?;
    let numbers = &*numbers;
    outputs(q, shape, |task| forward_one(task, numbers, k, v, shape))
}

/// Output and log-sum-exp put together from those of all tasks, which share the cores.
pub(crate) fn outputs<N: Number>(
    q: &Tensor,
    shape: &AttentionShape<'_>,
    of: impl Fn(&Task) -> Result<(Vec<N>, Vec<f32>)> + Sync,
) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = q.dims2()?;
    let tasks: Vec<_> = Task::all(shape).iter().flat_map(Task::parts).collect();
    let done: Vec<_> = tasks.par_iter().map(&of).collect::<Result<_>>()?;
    let (mut out, mut lse) = (vec![N::default(); tokens * width], vec![0.0; tokens * shape.heads]);
    for (task, (task_out, task_lse)) in tasks.iter().zip(&done) {
        scatter(&mut out, task_out, task.span.q.start, task.kv_head, width, task.width());
        scatter(&mut lse, task_lse, task.span.q.start, task.kv_head, shape.heads, task.group);
    }
    Ok((tensor(out, &[tokens, width])?, tensor(lse, &[tokens, shape.heads])?))
}

/// Output `[queries, group · head_dim]` and log-sum-exp `[queries, group]` of one task.
fn forward_one(
    task: &Task,
    q: &[f32],
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut out = Vec::with_capacity(task.queries() * task.width());
    let mut lse = Vec::with_capacity(task.queries() * task.group);
    let (k, v) = (task.head(k)?, task.head(v)?);
    for (from, to, keys) in task.tiles() {
        let q = task.tile(q, shape.heads, from, to, shape.scale as f32)?;
        let scores = matmul(&q, &k.narrow(0, keys.start, keys.len())?.t()?, Cores::One)?;
        edit(&scores, |scores| {
            for (r, row) in scores.chunks_exact_mut(keys.len()).enumerate() {
                let (seen, _) = task.split(r, from, keys.start, row);
                if let Some(cap) = shape.soft_cap {
                    seen.iter_mut().for_each(|x| *x = capped(*x, cap as f32));
                }
                lse.push(softmax(seen));
            }
        })?;
        let value = v.narrow(0, keys.start, keys.len())?;
        out.extend_from_slice(&view(&matmul(&scores, &value, Cores::One)?)?);
    }
    Ok((out, lse))
}

wide! {
    /// Softmax in place; gives the log-sum-exp.
    fn softmax(row: &mut [f32]) -> f32 {
        let max = max(row);
        row.iter_mut().for_each(|x| *x = exp(*x - max));
        let sum: f32 = row.chunks(64).map(|run| run.iter().sum::<f32>()).sum();
        let inverse = 1.0 / sum;
        row.iter_mut().for_each(|x| *x *= inverse);
        max + sum.ln()
    }
}

wide! {
    /// `exp(x − lse)` in place.
    fn exponentials(row: &mut [f32], lse: f32) {
        row.iter_mut().for_each(|x| *x = exp(*x - lse));
    }
}

wide! {
    /// `ds = p · (ds − Σ dout · out)` in place.
    fn softmax_backward(ds: &mut [f32], p: &[f32], dout: &[f32], out: &[f32]) {
        let delta: f32 = dout.iter().zip(out).map(|(a, b)| a * b).sum();
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - delta);
        }
    }
}

/// Writes one task's rows of `part` numbers to their place in rows of `width`.
fn scatter<N: Copy>(
    all: &mut [N],
    rows: &[N],
    first: usize,
    slot: usize,
    width: usize,
    part: usize,
) {
    for (t, row) in rows.chunks_exact(part).enumerate() {
        all[(first + t) * width + slot * part..][..part].copy_from_slice(row);
    }
}

/// Adds one task's rows of a key-shaped tensor to their places: keys of a prefix are those of several tasks.
fn add_keys<N: Number>(all: &mut [N], rows: &[N], task: &Task, width: usize) {
    let part = task.head_dim;
    for (row, at) in rows.chunks_exact(part).zip(task.span.key_rows()) {
        plus(&mut all[at * width + task.kv_head * part..][..part], row);
    }
}

/// With P = exp(S − lse) and D = rowsum(dO ∘ O): dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − D), dQ = dS·K, dK = dSᵀ·Q; under a
/// soft cap dS is multiplied by its slope.
pub(crate) fn backward(
    dout: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (dout, numbers, out, lse) = (view(dout)?, view(q)?, view(out)?, view(lse)?);
    let rows = Rows { dout: &dout, q: &numbers, out: &out, lse: &lse };
    gradients(q, k, shape, |task| {
        let parts = task.parts();
        let of = |part| backward_one(part, &rows, k, v, shape);
        let mut parts = parts.par_iter().map(of).collect::<Result<Vec<_>>>()?;
        let Some([last_dq, mut dk, mut dv]) = parts.pop() else { return Ok(Default::default()) };
        let mut dq = Vec::new();
        for [part_dq, part_dk, part_dv] in parts {
            dq.extend(part_dq);
            plus(&mut dk[..part_dk.len()], &part_dk);
            plus(&mut dv[..part_dv.len()], &part_dv);
        }
        dq.extend(last_dq);
        Ok([dq, dk, dv])
    })
}

/// Gradients for `q`, `k` and `v` put together from those of all tasks, which share the cores.
pub(crate) fn gradients<N: Number>(
    q: &Tensor,
    k: &Tensor,
    shape: &AttentionShape<'_>,
    of: impl Fn(&Task) -> Result<[Vec<N>; 3]> + Sync,
) -> Result<(Tensor, Tensor, Tensor)> {
    let ((queries, width), (keys, kv_width)) = (q.dims2()?, k.dims2()?);
    let tasks = Task::all(shape);
    let done: Vec<_> = tasks.par_iter().map(&of).collect::<Result<_>>()?;
    let mut dq = vec![N::default(); queries * width];
    let [mut dk, mut dv] = [(); 2].map(|()| vec![N::default(); keys * kv_width]);
    for (task, [task_dq, task_dk, task_dv]) in tasks.iter().zip(&done) {
        scatter(&mut dq, task_dq, task.span.q.start, task.kv_head, width, task.width());
        add_keys(&mut dk, task_dk, task, kv_width);
        add_keys(&mut dv, task_dv, task, kv_width);
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
    task: &Task,
    rows: &Rows<'_>,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<[Vec<f32>; 3]> {
    let scale = shape.scale as f32;
    let cap = shape.soft_cap.map(|cap| cap as f32);
    let mut dq = Vec::with_capacity(task.queries() * task.width());
    let mut dk = vec![0.0; task.span.keys() * task.head_dim];
    let mut dv = dk.clone();
    let (k, v) = (task.head(k)?, task.head(v)?);
    for (from, to, keys) in task.tiles() {
        let q = task.tile(rows.q, shape.heads, from, to, scale)?;
        let dout = task.tile(rows.dout, shape.heads, from, to, 1.0)?;
        let out = task.tile(rows.out, shape.heads, from, to, 1.0)?;
        let [key, value] = [&k, &v].map(|all| all.narrow(0, keys.start, keys.len()));
        let (key, value) = (key?, value?);
        let width = keys.len();

        let probabilities = matmul(&q, &key.t()?, Cores::One)?;
        let mut slopes = cap.map(|_| vec![0.0; (to - from) * task.group * width]);
        edit(&probabilities, |scores| {
            for (r, row) in scores.chunks_exact_mut(width).enumerate() {
                let (t, head) = (from + r / task.group, r % task.group);
                let at = (task.span.q.start + t) * shape.heads + task.kv_head * task.group + head;
                let (seen, place) = task.split(r, from, keys.start, row);
                if let (Some(cap), Some(slopes)) = (cap, &mut slopes) {
                    for (x, to) in seen.iter_mut().zip(&mut slopes[r * width..][place]) {
                        *x = capped(*x, cap);
                        *to = slope(*x, cap);
                    }
                }
                let lse = rows.lse[at];
                exponentials(seen, lse);
            }
        })?;
        let reach = keys.start * task.head_dim..keys.end * task.head_dim;
        add(&mut dv[reach.clone()], &matmul(&probabilities.t()?, &dout, Cores::One)?)?;

        let dscores = matmul(&dout, &value.t()?, Cores::One)?;
        {
            let (dout, out, p) = (view(&dout)?, view(&out)?, view(&probabilities)?);
            edit(&dscores, |dscores| {
                for (r, ds) in dscores.chunks_exact_mut(width).enumerate() {
                    let head = r * task.head_dim..(r + 1) * task.head_dim;
                    softmax_backward(ds, &p[r * width..], &dout[head.clone()], &out[head]);
                    if let Some(slopes) = &slopes {
                        ds.iter_mut().zip(&slopes[r * width..]).for_each(|(ds, s)| *ds *= s);
                    }
                }
            })?;
        }
        dq.extend(view(&matmul(&dscores, &key, Cores::One)?)?.iter().map(|x| x * scale));
        // q already carries the scale.
        add(&mut dk[reach], &matmul(&dscores.t()?, &q, Cores::One)?)?;
    }
    Ok([dq, dk, dv])
}

/// Adds a product to the rows it covers.
fn add(sum: &mut [f32], term: &Tensor) -> Result<()> {
    plus(sum, &view(term)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_bounds_what_a_tile_reads() {
        let span = Span::causal(0..10_000);
        let task = |window| Task { span: span.clone(), kv_head: 0, group: 2, head_dim: 4, window };
        let read = |window| -> usize { task(window).tiles().map(|(.., keys)| keys.len()).sum() };
        let tiles = task(64).tiles().count();
        assert!(read(64) <= tiles * (64 + TILE_ROWS / 2));
        assert!(read(usize::MAX) > 20 * read(64));
        assert_eq!((task(64).seen(3), task(64).seen(99)), (0..4, 36..100));
    }

    #[test]
    fn decoding_sees_the_same_keys_as_training() {
        let all = Span::causal(0..10);
        // The last query alone, its window's keys kept and no others.
        let last = Span { q: 0..1, prefix: 0..0, k: 0..4 };
        let seen = |span: &Span, t| {
            Task { span: span.clone(), kv_head: 0, group: 1, head_dim: 2, window: 4 }.seen(t)
        };
        assert_eq!(seen(&all, 9), 6..10);
        assert_eq!(seen(&last, 0), 0..4);
    }

    #[test]
    fn parts_see_what_the_whole_sees() {
        let span = Span { q: 5..5 + PART + 70, prefix: 2..6, k: 10..PART + 90 };
        let whole = Task { span, kv_head: 1, group: 2, head_dim: 4, window: 500 };
        let parts = whole.parts();
        let seen = |task: &Task| (0..task.queries()).map(|t| task.seen(t)).collect::<Vec<_>>();
        assert_eq!(parts.iter().map(Task::queries).collect::<Vec<_>>(), [PART, 70]);
        assert_eq!(parts.iter().flat_map(seen).collect::<Vec<_>>(), seen(&whole));
        assert_eq!((parts[1].span.q.start, parts[1].span.k.end), (5 + PART, whole.span.k.end));
        let long = Task { span: Span::causal(0..100 * PART), ..whole };
        assert_eq!(long.parts().len(), PARTS);
    }

    fn waves(rows: usize, width: usize, phase: f32) -> Tensor {
        let wave = |i: usize| ((i * i % 1013) as f32 * 0.03 + i as f32 * 0.7 + phase).sin();
        tensor((0..rows * width).map(wave).collect(), &[rows, width]).unwrap()
    }

    fn near(found: &Tensor, expected: &Tensor) {
        assert_eq!(found.dims(), expected.dims());
        for (found, expected) in view(found).unwrap().iter().zip(view(expected).unwrap().iter()) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    /// Two examples that begin with the same `shared` tokens, each of which is laid out once or twice; the second has
    /// a query more than one tile, and an example without a prefix follows.
    #[test]
    fn a_beginning_that_two_examples_share_is_as_good_as_two() {
        let (heads, kv_heads, head_dim, shared) = (4, 2, 8, 37);
        let (first, second, alone) = (60, 37 + TILE_ROWS / 2 + 1, 5);
        let [apart, once] = [
            [
                Span::causal(0..first),
                Span::causal(first..first + second),
                Span::causal(first + second..first + second + alone),
            ],
            [
                Span::causal(0..first),
                Span { prefix: 0..shared, ..Span::causal(first..first + second - shared) },
                Span::causal(first + second - shared..first + second - shared + alone),
            ],
        ];
        // Rows of the first layout, as the second has them.
        let rows: Vec<u32> = (0..first)
            .chain(first + shared..first + second + alone)
            .map(|row| row as u32)
            .collect();
        let rows =
            Tensor::from_vec(rows, first + second + alone - shared, &candle_core::Device::Cpu);
        let rows = rows.unwrap();
        let pick = |all: &Tensor| all.index_select(&rows, 0).unwrap();
        // The same beginning in both.
        let both = |width, phase| {
            let all = waves(first + second + alone, width, phase);
            let beginning = all.narrow(0, 0, shared).unwrap();
            let rest = all.narrow(0, first + shared, second - shared + alone).unwrap();
            Tensor::cat(&[all.narrow(0, 0, first).unwrap(), beginning, rest], 0).unwrap()
        };
        let (q, k, v) = (
            both(heads * head_dim, 0.0),
            both(kv_heads * head_dim, 1.0),
            both(kv_heads * head_dim, 2.0),
        );
        // Nobody asks the second beginning for anything.
        let dout = waves(first + second + alone, heads * head_dim, 3.0);
        edit(&dout, |dout| {
            dout[first * heads * head_dim..(first + shared) * heads * head_dim].fill(0.0);
        })
        .unwrap();
        for (window, soft_cap) in [(None, None), (Some(20), None), (None, Some(2.0))] {
            let shape = |spans| AttentionShape {
                heads,
                kv_heads,
                head_dim,
                spans,
                window,
                scale: 0.3,
                soft_cap,
            };
            let (out, lse) = forward(&q, &k, &v, &shape(&apart)).unwrap();
            let [once_q, once_k, once_v, once_dout] = [&q, &k, &v, &dout].map(pick);
            let found = forward(&once_q, &once_k, &once_v, &shape(&once)).unwrap();
            near(&found.0, &pick(&out));
            near(&found.1, &pick(&lse));
            let (dq, dk, dv) = backward(&dout, &q, &k, &v, &out, &lse, &shape(&apart)).unwrap();
            let found =
                backward(&once_dout, &once_q, &once_k, &once_v, &found.0, &found.1, &shape(&once))
                    .unwrap();
            near(&found.0, &pick(&dq));
            for (found, expected) in [(found.1, dk), (found.2, dv)] {
                let beginning = expected.narrow(0, first, shared).unwrap();
                let sum = (expected.narrow(0, 0, shared).unwrap() + beginning).unwrap();
                near(&found.narrow(0, 0, shared).unwrap(), &sum);
                let rest =
                    |all: &Tensor| all.narrow(0, shared, all.dim(0).unwrap() - shared).unwrap();
                near(&rest(&found), &rest(&pick(&expected)));
            }
        }
    }
}
