//! Causal attention whose five products multiply bf16 (FlashAttention-2, arXiv 2307.08691).
//!
//! Tasks, their parts and what their queries see are those of the portable twin. A part packs its keys and values once;
//! its queries and keys pass in tiles. Of a tile's square matrices the transposed products take what they need by rows, so that nothing
//! square is ever transposed: dVᵀ = dOᵀ·P and dKᵀ = Qᵀ·dS, turned once at the end.

use std::ops::Range;

use candle_core::Tensor;
use half::bf16;
use rayon::prelude::*;

use super::kernel::{COLUMNS, deep};
use super::pack;
use super::panels::{Panels, Rows};
use crate::Result;
use crate::ops::AttentionShape;
use crate::ops::number::Number;
use crate::ops::portable::attention::{Task, gradients, outputs};
use crate::ops::portable::exp::exp;
use crate::ops::portable::reduce::max;
use crate::ops::portable::rows::plus;
use crate::ops::portable::tanh::{capped, slope};
use crate::ops::slices::{narrow, view, view_as, written};
use crate::ops::wide::wide;

/// Scores of a tile: as many as stay in the second cache with their gradients.
const TILE: usize = 48 << 10;
/// Keys of a tile at most: with their values they stay there too.
const TILE_KEYS: usize = 512;
/// Rows a tile has at most.
const TILE_ROWS: usize = 192;

/// Queries of one tile, and the keys they look at.
struct Tile {
    tokens: Range<usize>,
    rows: usize,
    keys: Range<usize>,
}

/// Runs of queries, as `tokens` of the task.
fn runs(task: &Task) -> impl Iterator<Item = Range<usize>> {
    let keys = task.span.keys().min(task.window).clamp(1, TILE_KEYS);
    let tokens = ((TILE / keys).min(TILE_ROWS) / task.group).max(1);
    let queries = task.queries();
    (0..queries).step_by(tokens).map(move |from| from..(from + tokens).min(queries))
}

/// All keys, in runs of about the same length that begin with whole panels.
fn key_runs(task: &Task) -> impl Iterator<Item = Range<usize>> + Clone {
    let all = task.span.keys();
    let run = all.div_ceil(all.div_ceil(TILE_KEYS).max(1)).next_multiple_of(COLUMNS);
    (0..all).step_by(run).map(move |from| from..(from + run).min(all))
}

impl Tile {
    /// None where `tokens` see none of `keys`.
    fn of(task: &Task, tokens: Range<usize>, keys: &Range<usize>) -> Option<Self> {
        // Whole panels.
        let first = task.seen(tokens.start).start / COLUMNS * COLUMNS;
        let seen = keys.start.max(first)..keys.end.min(task.seen(tokens.end - 1).end);
        let rows = tokens.len() * task.group;
        (!seen.is_empty()).then_some(Self { tokens, rows, keys: seen })
    }

    /// Which of the tile's keys row `row` sees.
    fn seen(&self, task: &Task, row: usize) -> Range<usize> {
        let Range { start, end } = task.seen(self.tokens.start + row / task.group);
        let within = |key: usize| key.clamp(self.keys.start, self.keys.end) - self.keys.start;
        within(start)..within(end)
    }

    /// Numbers of a row of scores: the keys, filled up to what multiplies fastest.
    fn width(&self) -> usize {
        self.keys.len().next_multiple_of(deep())
    }

    /// The keys, filled up alike.
    fn depths(&self) -> Range<usize> {
        self.keys.start..self.keys.start + self.width()
    }

    /// The tile's rows of a query-shaped tensor: `[rows, head_dim]`.
    fn gather(&self, task: &Task, all: &[bf16], heads: usize) -> Vec<bf16> {
        let (width, stride) = (task.width(), heads * task.head_dim);
        let at = |t: usize| (task.span.q.start + t) * stride + task.kv_head * width;
        pack::pick(all, width, self.tokens.clone().map(at))
    }
}

/// A task's head of a key-shaped tensor: `[keys, head_dim]`.
fn head(task: &Task, all: &[bf16], kv_heads: usize) -> Vec<bf16> {
    let (width, stride) = (task.head_dim, kv_heads * task.head_dim);
    pack::pick(all, width, task.span.key_rows().map(|t| t * stride + task.kv_head * width))
}

/// Rows of keys as a factor, with as many of zeros below as the last tile may be filled up with.
fn filled(task: &Task) -> usize {
    task.span.keys() + deep()
}

wide! {
    fn cap_all(scores: &mut [f32], scale: f32, cap: f32) {
        scores.iter_mut().for_each(|x| *x = capped(*x * scale, cap) / scale);
    }
}

wide! {
    /// `e^(scale · x − most)`; gives the sum of them.
    fn exponentials(p: &mut [bf16], scores: &[f32], scale: f32, most: f32) -> f32 {
        let mut sums = [0.0f32; 16];
        let mut sixteen = |to: &mut [bf16; 16], x: &[f32; 16]| {
            for i in 0..16 {
                let e = exp(x[i] * scale - most);
                sums[i] += e;
                to[i] = bf16::narrow(e);
            }
        };
        let (whole, rest) = scores.as_chunks::<16>();
        let (to, to_rest) = p.as_chunks_mut::<16>();
        to.iter_mut().zip(whole).for_each(|(to, x)| sixteen(to, x));
        // The rest is filled up with what becomes nothing.
        if !rest.is_empty() {
            let (mut last, mut to_last) = ([f32::NEG_INFINITY; 16], [bf16::ZERO; 16]);
            last[..rest.len()].copy_from_slice(rest);
            sixteen(&mut to_last, &last);
            to_rest.copy_from_slice(&to_last[..rest.len()]);
        }
        sums.iter().sum()
    }
}

wide! {
    fn shrink(to: &mut [bf16], from: &[f32], factor: f32) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16::narrow(from * factor));
    }
}

/// Gives the output, made as activations are, and the log-sum-exp.
pub(super) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor)> {
    let (numbers, k, v) = (view_as::<bf16>(q)?, view_as::<bf16>(k)?, view_as::<bf16>(v)?);
    let (numbers, k, v) = (&*numbers, &*k, &*v);
    outputs(q, shape, |task| Ok(forward_one(task, numbers, k, v, shape)))
}

fn forward_one(
    task: &Task,
    q: &[bf16],
    k: &[bf16],
    v: &[bf16],
    shape: &AttentionShape<'_>,
) -> (Vec<bf16>, Vec<f32>) {
    let (dim, scale) = (task.head_dim, shape.scale as f32);
    let (mut keys, mut values) = (Panels::default(), Panels::default());
    keys.take_columns(&head(task, k, shape.kv_heads), dim);
    values.take_rows(&head(task, v, shape.kv_heads), (dim, filled(task)), &(0..dim));
    let mut out = vec![bf16::ZERO; task.queries() * task.width()];
    let mut lse = Vec::with_capacity(task.queries() * task.group);
    let (mut scores, mut p, mut rows_out) = (Vec::new(), Vec::new(), Vec::new());
    for tokens in runs(task) {
        let rows = tokens.len() * task.group;
        // The largest exponent of each row so far, and the sum of e to the power of all of them less that one.
        let (mut most, mut sums) = (vec![f32::NEG_INFINITY; rows], vec![0.0; rows]);
        rows_out.resize(rows * dim, 0.0);
        let mut first = true;
        for tile in key_runs(task).filter_map(|keys| Tile::of(task, tokens.clone(), &keys)) {
            let width = tile.width();
            let q = tile.gather(task, q, shape.heads);
            scores.resize(rows * width, 0.0);
            let left = Rows { numbers: &q, stride: dim, count: rows };
            keys.times(left, (tile.keys.clone(), 0..dim), (&mut scores, width), false);
            p.clear();
            p.resize(rows * width, bf16::ZERO);
            let each = scores.chunks_exact_mut(width).zip(p.chunks_exact_mut(width));
            for (row, (scores, p)) in each.enumerate() {
                let seen = tile.seen(task, row);
                if seen.is_empty() {
                    continue;
                }
                let scores = &mut scores[seen.clone()];
                if let Some(cap) = shape.soft_cap {
                    cap_all(scores, scale, cap as f32);
                }
                let larger = most[row].max(max(scores) * scale);
                let factor = (most[row] - larger).exp();
                if !first && factor < 1.0 {
                    let so_far = &mut rows_out[row * dim..(row + 1) * dim];
                    so_far.iter_mut().for_each(|x| *x *= factor);
                    sums[row] *= factor;
                }
                most[row] = larger;
                sums[row] += exponentials(&mut p[seen], scores, scale, larger);
            }
            let left = Rows { numbers: &p, stride: width, count: rows };
            values.times(left, (0..dim, tile.depths()), (&mut rows_out, dim), !first);
            first = false;
        }
        let to = out[tokens.start * task.width()..].chunks_exact_mut(dim);
        for ((to, from), sum) in to.zip(rows_out.chunks_exact(dim)).zip(&sums) {
            shrink(to, from, 1.0 / sum);
        }
        lse.extend(most.iter().zip(&sums).map(|(most, sum)| most + sum.ln()));
    }
    (out, lse)
}

wide! {
    /// One row: scores become P = e^(s − lse), and dP becomes dS = P ∘ (dP − Σ dout · out), times the scale and, under
    /// a cap, its slope.
    fn softmax_backward(
        scores: &mut [f32],
        dp: &mut [f32],
        dout: &[bf16],
        out: &[bf16],
        lse: f32,
        scale: f32,
        cap: Option<f32>,
    ) {
        let delta: f32 = dout.iter().zip(out).map(|(a, b)| a.widen() * b.widen()).sum();
        match cap {
            None => {
                for (s, dp) in scores.iter_mut().zip(dp) {
                    *s = exp(*s * scale - lse);
                    *dp = *s * (*dp - delta) * scale;
                }
            }
            Some(cap) => {
                for (s, dp) in scores.iter_mut().zip(dp) {
                    let x = capped(*s * scale, cap);
                    *s = exp(x - lse);
                    *dp = *s * (*dp - delta) * slope(x, cap) * scale;
                }
            }
        }
    }
}

/// What the backward pass reads row by row.
struct Given<'a> {
    dout: &'a [bf16],
    q: &'a [bf16],
    k: &'a [bf16],
    v: &'a [bf16],
    out: &'a [bf16],
    lse: &'a [f32],
}

/// Gradients for `q`, `k` and `v`, made as activations are.
pub(super) fn backward(
    dout: &Tensor,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    out: &Tensor,
    lse: &Tensor,
    shape: &AttentionShape<'_>,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (dout, out, lse) = (view_as(dout)?, view_as(out)?, view(lse)?);
    let (q_numbers, k_numbers, v) = (view_as(q)?, view_as(k)?, view_as(v)?);
    let given = Given { dout: &dout, q: &q_numbers, k: &k_numbers, v: &v, out: &out, lse: &lse };
    gradients(q, k, shape, |task| Ok(backward_one(task, &given, shape)))
}

fn backward_one(task: &Task, given: &Given<'_>, shape: &AttentionShape<'_>) -> [Vec<bf16>; 3] {
    let parts = task.parts();
    let mut parts: Vec<_> = parts
        .par_iter()
        .map(|part| (part.span.keys(), backward_part(part, given, shape)))
        .collect();
    // The last sees all keys.
    let Some((all, mut whole)) = parts.pop() else { return Default::default() };
    let mut dq = Vec::with_capacity(task.queries() * task.width());
    for (keys, part) in parts {
        dq.extend(part.dq);
        for (sum, more) in [(&mut whole.dk, part.dk), (&mut whole.dv, part.dv)] {
            let rows = sum.chunks_exact_mut(all).zip(more.chunks_exact(keys));
            rows.for_each(|(sum, more)| plus(&mut sum[..keys], more));
        }
    }
    dq.extend(whole.dq);
    let back = |sum: &[f32]| {
        let (rounded, ()) = written(sum.len(), |to| narrow(to, sum));
        turned(&rounded, all, task.head_dim)
    };
    [dq, back(&whole.dk), back(&whole.dv)]
}

/// What the queries of one part lead to.
struct Part {
    /// `[queries, group · head_dim]`.
    dq: Vec<bf16>,
    /// `[head_dim, keys]`, as is `dv`.
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Keys pass outside, queries inside: what a run of keys is told stays in the second cache meanwhile.
fn backward_part(task: &Task, given: &Given<'_>, shape: &AttentionShape<'_>) -> Part {
    let (dim, scale) = (task.head_dim, shape.scale as f32);
    let cap = shape.soft_cap.map(|cap| cap as f32);
    let (key, value) = (head(task, given.k, shape.kv_heads), head(task, given.v, shape.kv_heads));
    let [mut k_columns, mut k_rows, mut v_columns] = [(); 3].map(|()| Panels::default());
    k_columns.take_columns(&key, dim);
    k_rows.take_rows(&key, (dim, filled(task)), &(0..dim));
    v_columns.take_columns(&value, dim);
    let all = task.span.keys();
    let mut dq = vec![0f32; task.queries() * task.width()];
    // Transposed: `[dim, keys]`.
    let (mut dk, mut dv) = (vec![0f32; dim * all], vec![0f32; dim * all]);
    let (mut scores, mut dp, mut ds) = (Vec::new(), Vec::new(), Vec::new());
    let mut square = Panels::default();
    let tiles = key_runs(task)
        .flat_map(|keys| runs(task).filter_map(move |tokens| Tile::of(task, tokens, &keys)));
    for tile in tiles {
        let (width, rows) = (tile.width(), tile.rows);
        let [q, dout, out] =
            [given.q, given.dout, given.out].map(|all| tile.gather(task, all, shape.heads));
        scores.resize(rows * width, 0.0);
        dp.resize(rows * width, 0.0);
        let of = |numbers| Rows { numbers, stride: dim, count: rows };
        let place = || (tile.keys.clone(), 0..dim);
        k_columns.times(of(&q), place(), (&mut scores, width), false);
        v_columns.times(of(&dout), place(), (&mut dp, width), false);
        let each = scores.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
        for (row, (scores, dp)) in each.enumerate() {
            let (t, h) = (tile.tokens.start + row / task.group, row % task.group);
            let at = (task.span.q.start + t) * shape.heads + task.kv_head * task.group + h;
            let seen = tile.seen(task, row);
            for unseen in [0..seen.start, seen.end..width] {
                scores[unseen.clone()].fill(0.0);
                dp[unseen].fill(0.0);
            }
            let numbers = row * dim..(row + 1) * dim;
            let (dout, out) = (&dout[numbers.clone()], &out[numbers]);
            let (scores, dp) = (&mut scores[seen.clone()], &mut dp[seen]);
            softmax_backward(scores, dp, dout, out, given.lse[at], scale, cap);
        }
        ds.resize(rows * width, bf16::ZERO);
        narrow(&mut ds, &dp);
        let left = Rows { numbers: &ds, stride: width, count: rows };
        let to = &mut dq[tile.tokens.start * task.width()..];
        k_rows.times(left, (0..dim, tile.depths()), (to, dim), true);
        // Rows of a transposed tile are filled up too.
        let depth = rows.next_multiple_of(deep());
        for (square_of, left, sum) in [(&scores, dout, &mut dv), (&dp, q, &mut dk)] {
            square.take_rows(square_of, (width, depth), &(0..tile.keys.len()));
            let left = turned(&left, dim, depth);
            let left = Rows { numbers: &left, stride: depth, count: dim };
            let to = (&mut sum[tile.keys.start..], all);
            square.times(left, (0..tile.keys.len(), 0..depth), to, true);
        }
    }
    let (dq, ()) = written(dq.len(), |to| narrow(to, &dq));
    Part { dq, dk, dv }
}

/// `xᵀ` of rows of `width`, each row filled up to `depth` with zeros.
fn turned(x: &[bf16], width: usize, depth: usize) -> Vec<bf16> {
    written(width * depth, |out| pack::transposed(out, x, (width, 0..width), depth)).0
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::{narrowed, widened};
    use super::*;
    use crate::ops::Span;
    use crate::ops::portable::attention as twin;
    use crate::quant::absmax;

    fn waves(rows: usize, width: usize, phase: f32) -> Tensor {
        let wave = |i: usize| ((i * i % 1013) as f32 * 0.03 + i as f32 * 0.7 + phase).sin();
        let numbers: Vec<f32> = (0..rows * width).map(wave).collect();
        narrowed(&Tensor::from_vec(numbers, (rows, width), &Device::Cpu).unwrap()).unwrap()
    }

    fn near(found: &Tensor, expected: &Tensor, limit: f32) {
        let found = widened(found).unwrap();
        let (found, expected) = (view(&found).unwrap(), view(expected).unwrap());
        let most = absmax(&expected);
        for (i, (found, expected)) in found.iter().zip(expected.iter()).enumerate() {
            assert!((found - expected).abs() < limit * most, "{i}: {found} {expected} of {most}");
        }
    }

    #[test]
    fn it_is_the_portable_twin_to_the_precision_of_its_numbers() {
        let spans = [Span::causal(0..130), Span::causal(130..137)];
        let cached = [Span { q: 0..3, prefix: 0..0, k: 0..60 }];
        let shared = [Span::causal(0..130), Span { prefix: 0..101, ..Span::causal(130..177) }];
        let parts = [Span::causal(0..1100), Span { prefix: 0..701, ..Span::causal(1100..1107) }];
        for (spans, window, soft_cap, head_dim) in [
            (&spans[..], None, None, 64),
            (&spans[..], Some(50), None, 20),
            (&spans[..], None, Some(3.0), 16),
            (&cached[..], Some(58), None, 16),
            (&shared[..], None, None, 64),
            (&shared[..], Some(50), None, 20),
            (&parts[..], None, None, 16),
            (&parts[..], Some(600), Some(3.0), 16),
        ] {
            let (queries, keys) = (spans.last().unwrap().q.end, spans.last().unwrap().k.end);
            let (heads, kv_heads) = (6, 2);
            let scale = 1.0 / (head_dim as f64).sqrt();
            let shape =
                AttentionShape { heads, kv_heads, head_dim, spans, window, scale, soft_cap };
            let q = waves(queries, heads * head_dim, 0.0);
            let k = waves(keys, kv_heads * head_dim, 1.0);
            let v = waves(keys, kv_heads * head_dim, 2.0);
            let dout = waves(queries, heads * head_dim, 3.0);
            let [wq, wk, wv, wdout] = [&q, &k, &v, &dout].map(|t| widened(t).unwrap());
            let (out, lse) = forward(&q, &k, &v, &shape).unwrap();
            let (twin_out, twin_lse) = twin::forward(&wq, &wk, &wv, &shape).unwrap();
            near(&out, &twin_out, 1e-2);
            near(&lse, &twin_lse, 1e-5);
            let (dq, dk, dv) = backward(&dout, (&q, &k, &v), &out, &lse, &shape).unwrap();
            let expected =
                twin::backward(&wdout, &wq, &wk, &wv, &twin_out, &twin_lse, &shape).unwrap();
            near(&dq, &expected.0, 2e-2);
            near(&dk, &expected.1, 2e-2);
            near(&dv, &expected.2, 1e-2);
        }
    }
}
