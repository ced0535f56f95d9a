//! Operations on whole rows: sums, gathers, and the low-rank update of LoRA.

use candle_core::Tensor;
use rayon::prelude::*;

use super::parallel;
use super::reduce::dot;
use crate::Result;
use crate::ops::DropoutMask;
use crate::ops::number::Number;
use crate::ops::slices::{edit, edit_as, tensor, view, view_as};
use crate::ops::wide::wide;

wide! {
    /// `to[i] += from[i]`.
    pub(crate) fn plus[N: Number, M: Number](to: &mut [N], from: &[M]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = N::narrow(to.widen() + from.widen());
        }
    }
}

wide! {
    /// `to[i] *= from[i]`.
    fn times[N: Number](to: &mut [N], from: &[f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = N::narrow(to.widen() * from);
        }
    }
}

wide! {
    /// `to[i] += a[i] · b[i]`.
    fn plus_product[N: Number, M: Number](to: &mut [f32], a: &[N], b: &[M]) {
        for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
            *to += a.widen() * b.widen();
        }
    }
}

pub(crate) fn add<N: Number, M: Number>(sum: &Tensor, term: &Tensor) -> Result<()> {
    let term = view_as::<M>(term)?;
    let term = &*term;
    edit_as(sum, |sum: &mut [N]| parallel::pieces(sum, term, plus))
}

pub(crate) fn add_bias<N: Number>(y: &Tensor, bias: &Tensor) -> Result<()> {
    let bias = view(bias)?;
    let bias = &*bias;
    edit_as(y, |y: &mut [N]| parallel::rows(y, bias.len(), |_, row| plus(row, bias)))
}

pub(crate) fn sum<N: Number>(dy: &Tensor) -> Result<Tensor> {
    let (_, width) = dy.dims2()?;
    let dy = view_as::<N>(dy)?;
    tensor(sum_over_rows(&dy, width, |_, row, sum| plus(sum, row)), &[width])
}

pub(crate) fn scale<N: Number>(y: &Tensor, factor: &Tensor) -> Result<()> {
    let factor = view(factor)?;
    let factor = &*factor;
    edit_as(y, |y: &mut [N]| parallel::rows(y, factor.len(), |_, row| times(row, factor)))
}

pub(crate) fn dot_rows<N: Number, M: Number>(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (_, width) = dy.dims2()?;
    let (dy, y) = (view_as::<N>(dy)?, view_as::<M>(y)?);
    let y = &*y;
    let each = |t: usize, dy: &[N], sum: &mut [f32]| {
        plus_product(sum, dy, &y[t * width..][..width]);
    };
    tensor(sum_over_rows(&dy, width, each), &[width])
}

pub(crate) fn dropout<N: Number>(x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let mut numbers = view_as::<N>(x)?.to_vec();
    parallel::rows(&mut numbers, width, |t, row| {
        mask.row(t, width, |column, factor| {
            row[column] = N::narrow(row[column].widen() * factor);
        });
    });
    tensor(numbers, &[tokens, width])
}

/// Sums over rows into one of `width`: every task into its own, then the tasks' in order.
pub(crate) fn sum_over_rows<N: Sync>(
    numbers: &[N],
    width: usize,
    each: impl Fn(usize, &[N], &mut [f32]) + Sync,
) -> Vec<f32> {
    // Few, long tasks: each costs a buffer.
    let per_task = 8 * parallel::rows_per_task(width);
    let sums: Vec<Vec<f32>> = numbers
        .par_chunks(per_task * width)
        .enumerate()
        .map(|(task, chunk)| {
            let mut sum = vec![0.0; width];
            for (i, row) in chunk.chunks_exact(width).enumerate() {
                each(task * per_task + i, row, &mut sum);
            }
            sum
        })
        .collect();
    sums.into_iter()
        .reduce(|mut total, part| {
            total.iter_mut().zip(&part).for_each(|(total, part)| *total += part);
            total
        })
        .unwrap_or_else(|| vec![0.0; width])
}

pub(crate) fn gather<N: Number>(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (_, width) = table.dims2()?;
    let table = view_as::<N>(table)?;
    let mut out = Vec::with_capacity(ids.len() * width);
    for id in ids {
        out.extend(table[*id as usize * width..][..width].iter().map(|number| number.widen()));
    }
    tensor(out, &[ids.len(), width])
}

pub(crate) fn scatter_add(dtable: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()> {
    let (_, width) = dtable.dims2()?;
    let dy = view(dy)?;
    edit(dtable, |dtable| {
        // One after another: the same id may come twice.
        for (id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
            plus(&mut dtable[*id as usize * width..][..width], dy);
        }
    })
}

/// `x · wᵀ` for a handful of rows, each number one dot product with a row of `w`.
pub(super) fn project_few(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let outs = w.dim(0)?;
    let (x, w) = (view(x)?, view(w)?);
    let (x, w) = (&*x, &*w);
    let mut y = vec![0.0; tokens * outs];
    let per_task = parallel::rows_per_task(width);
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(outs)) {
        y.par_chunks_mut(per_task).zip(w.par_chunks(per_task * width)).for_each(|(y, w)| {
            dots(y, x, w);
        });
    }
    tensor(y, &[tokens, outs])
}

wide! {
    /// `y[i] = x · w[i]`, rows of `w` as long as `x`.
    pub(super) fn dots(y: &mut [f32], x: &[f32], w: &[f32]) {
        y.iter_mut().zip(w.chunks_exact(x.len())).for_each(|(y, w)| *y = dot(x, w));
    }
}

wide! {
    /// `y += Σ c[i] · m[i]`, rows of `m` as long as `y`.
    fn add_combination[N: Number](y: &mut [N], c: &[f32], m: &[f32]) {
        let width = y.len();
        for (c, m) in c.chunks(4).zip(m.chunks(4 * width)) {
            if let [c0, c1, c2, c3] = *c {
                let (m0, m) = m.split_at(width);
                let (m1, m) = m.split_at(width);
                let (m2, m3) = m.split_at(width);
                for ((((y, m0), m1), m2), m3) in y.iter_mut().zip(m0).zip(m1).zip(m2).zip(m3) {
                    *y = N::narrow(y.widen() + ((c0 * m0 + c1 * m1) + (c2 * m2 + c3 * m3)));
                }
            } else {
                for (c, m) in c.iter().zip(m.chunks_exact(width)) {
                    y.iter_mut().zip(m).for_each(|(y, m)| *y = N::narrow(y.widen() + c * m));
                }
            }
        }
    }
}

/// One pass over `y`: a row and the few rows of `m` stay in the nearest cache, where a product into a buffer and an
/// addition would carry `[T, n]` to memory and back three times.
pub(crate) fn add_low_rank<N: Number>(y: &Tensor, c: &Tensor, m: &Tensor) -> Result<()> {
    let (rank, width) = m.dims2()?;
    let (c, m) = (view(c)?, view(m)?);
    let (c, m) = (&*c, &*m);
    edit_as(y, |y: &mut [N]| {
        parallel::rows(y, width, |t, y| add_combination(y, &c[t * rank..][..rank], m));
    })
}
