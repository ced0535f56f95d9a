//! Causal attention whose five products multiply bf16 (FlashAttention-2, arXiv 2307.08691).
//!
//! Tasks and what their queries see are those of the portable twin. A task packs its keys and values once; its queries
//! pass in tiles. Of a tile's square matrices the transposed products take what they need by rows, so that nothing
//! square is ever transposed: dVᵀ = dOᵀ·P and dKᵀ = Qᵀ·dS, turned once at the end.

use std::ops::Range;

use candle_core::Tensor;
use half::bf16;

use super::kernel::COLUMNS;
use super::pack;
use super::panels::{Panels, Rows};
use crate::Result;
use crate::ops::AttentionShape;
use crate::ops::number::Number;
use crate::ops::portable::attention::{Task, gradients, outputs};
use crate::ops::portable::exp::exp;
use crate::ops::portable::reduce::max;
use crate::ops::portable::tanh::{capped, slope};
use crate::ops::slices::{narrow, view, view_as, written};
use crate::ops::wide::wide;

/// Scores of a tile: as many as stay in the second cache with their gradients.
const TILE: usize = 48 << 10;
/// Rows a tile has at least, so that a panel is worth reading.
const LEAST_ROWS: usize = 32;

/// Queries of one tile, and the keys they look at.
struct Tile {
    tokens: Range<usize>,
    rows: usize,
    keys: Range<usize>,
}

fn tiles<'t>(task: &'t Task<'_>) -> impl Iterator<Item = Tile> + 't {
    let rows = (TILE / task.span.keys().min(task.window).max(1)).clamp(LEAST_ROWS, 192);
    let tokens = (rows / task.group).max(1);
    (0..task.queries()).step_by(tokens).map(move |from| {
        let to = (from + tokens).min(task.queries());
        // Whole panels.
        let first = task.seen(from).start / COLUMNS * COLUMNS;
        Tile {
            tokens: from..to,
            rows: (to - from) * task.group,
            keys: first..task.seen(to - 1).end,
        }
    })
}

impl Tile {
    /// Which of the tile's keys row `row` sees.
    fn seen(&self, task: &Task<'_>, row: usize) -> Range<usize> {
        let seen = task.seen(self.tokens.start + row / task.group);
        seen.start - self.keys.start..seen.end - self.keys.start
    }

    /// Numbers of a row of scores: the keys, and one more where that makes it even.
    fn width(&self) -> usize {
        self.keys.len().next_multiple_of(2)
    }

    /// The tile's rows of a query-shaped tensor: `[rows, head_dim]`.
    fn gather(&self, task: &Task<'_>, all: &[bf16], heads: usize) -> Vec<bf16> {
        let (width, stride) = (task.width(), heads * task.head_dim);
        let at = |t: usize| (task.span.q.start + t) * stride + task.kv_head * width;
        pick(all, width, self.tokens.clone().map(at))
    }
}

/// A task's head of a key-shaped tensor: `[keys, head_dim]`.
fn head(task: &Task<'_>, all: &[bf16], kv_heads: usize) -> Vec<bf16> {
    let (width, stride) = (task.head_dim, kv_heads * task.head_dim);
    pick(all, width, task.span.key_rows().map(|t| t * stride + task.kv_head * width))
}

/// `width` numbers from each of the places on, one after the other.
fn pick(all: &[bf16], width: usize, places: impl Iterator<Item = usize>) -> Vec<bf16> {
    let mut picked = Vec::with_capacity(places.size_hint().0 * width);
    places.for_each(|at| picked.extend_from_slice(&all[at..at + width]));
    picked
}

wide! {
    fn cap_all(scores: &mut [f32], scale: f32, cap: f32) {
        scores.iter_mut().for_each(|x| *x = capped(*x * scale, cap) / scale);
    }
}

wide! {
    /// `e^(scale · x − m)` with the largest exponent `m`; gives the sum of them and the log-sum-exp.
    fn exponentials(p: &mut [bf16], scores: &[f32], scale: f32) -> (f32, f32) {
        let most = max(scores) * scale;
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
        let sum: f32 = sums.iter().sum();
        (sum, most + sum.ln())
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
    task: &Task<'_>,
    q: &[bf16],
    k: &[bf16],
    v: &[bf16],
    shape: &AttentionShape<'_>,
) -> (Vec<bf16>, Vec<f32>) {
    let (dim, scale) = (task.head_dim, shape.scale as f32);
    let (mut keys, mut values) = (Panels::default(), Panels::default());
    keys.take_columns(&head(task, k, shape.kv_heads), dim);
    values.take_rows(&head(task, v, shape.kv_heads), dim, dim);
    let mut out = vec![bf16::ZERO; task.queries() * task.width()];
    let mut lse = Vec::with_capacity(task.queries() * task.group);
    let (mut scores, mut p, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for tile in tiles(task) {
        let (width, rows) = (tile.width(), tile.rows);
        let q = tile.gather(task, q, shape.heads);
        scores.resize(rows * width, 0.0);
        let left = Rows { numbers: &q, stride: dim, count: rows };
        keys.times(left, (tile.keys.clone(), 0..dim), (&mut scores, width), false);
        p.clear();
        p.resize(rows * width, bf16::ZERO);
        sums.clear();
        let each = scores.chunks_exact_mut(width).zip(p.chunks_exact_mut(width));
        for (row, (scores, p)) in each.enumerate() {
            let seen = tile.seen(task, row);
            let scores = &mut scores[seen.clone()];
            if let Some(cap) = shape.soft_cap {
                cap_all(scores, scale, cap as f32);
            }
            let (sum, log) = exponentials(&mut p[seen], scores, scale);
            sums.push(sum);
            lse.push(log);
        }
        let mut rows_out = vec![0.0; rows * dim];
        let left = Rows { numbers: &p, stride: width, count: rows };
        values.times(left, (0..dim, tile.keys.clone()), (&mut rows_out, dim), false);
        let to = out[tile.tokens.start * task.width()..].chunks_exact_mut(dim);
        for ((to, from), sum) in to.zip(rows_out.chunks_exact(dim)).zip(&sums) {
            shrink(to, from, 1.0 / sum);
        }
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

fn backward_one(task: &Task<'_>, given: &Given<'_>, shape: &AttentionShape<'_>) -> [Vec<bf16>; 3] {
    let (dim, scale) = (task.head_dim, shape.scale as f32);
    let cap = shape.soft_cap.map(|cap| cap as f32);
    let (key, value) = (head(task, given.k, shape.kv_heads), head(task, given.v, shape.kv_heads));
    let [mut k_columns, mut k_rows, mut v_columns] = [(); 3].map(|()| Panels::default());
    k_columns.take_columns(&key, dim);
    k_rows.take_rows(&key, dim, dim);
    v_columns.take_columns(&value, dim);
    let all = task.span.keys();
    let mut dq = vec![bf16::ZERO; task.queries() * task.width()];
    // Transposed: `[dim, keys]`.
    let (mut dk, mut dv) = (vec![0f32; dim * all], vec![0f32; dim * all]);
    let (mut scores, mut dp, mut ds) = (Vec::new(), Vec::new(), Vec::new());
    let mut square = Panels::default();
    for tile in tiles(task) {
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
        k_rows.times(left, (0..dim, tile.keys.clone()), (to, dim), false);
        // Rows of a transposed tile are filled up to pairs.
        let depth = rows.next_multiple_of(2);
        for (square_of, left, sum) in [(&scores, dout, &mut dv), (&dp, q, &mut dk)] {
            square.take_rows(square_of, width, tile.keys.len());
            let left = turned(&left, dim, depth);
            let left = Rows { numbers: &left, stride: depth, count: dim };
            let to = (&mut sum[tile.keys.start..], all);
            square.times(left, (0..tile.keys.len(), 0..rows), to, true);
        }
    }
    let back = |sum: &[f32]| {
        let (rounded, ()) = written(sum.len(), |to| narrow(to, sum));
        turned(&rounded, all, dim)
    };
    [dq, back(&dk), back(&dv)]
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
        for (spans, window, soft_cap, head_dim) in [
            (&spans[..], None, None, 64),
            (&spans[..], Some(50), None, 20),
            (&spans[..], None, Some(3.0), 16),
            (&cached[..], Some(58), None, 16),
            (&shared[..], None, None, 64),
            (&shared[..], Some(50), None, 20),
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
