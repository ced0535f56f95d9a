//! Operations on whole rows: sums, gathers, and the low-rank update of LoRA.

use candle_core::Tensor;
use rayon::prelude::*;

use super::parallel;
use super::reduce::dot;
use crate::Result;
use crate::ops::DropoutMask;
use crate::ops::slices::{edit, tensor, view};

pub(super) fn add(sum: &Tensor, term: &Tensor) -> Result<()> {
    let term = view(term)?;
    let term = &*term;
    edit(sum, |sum| {
        parallel::pieces(sum, term, |sum, term| {
            for (sum, term) in sum.iter_mut().zip(term) {
                *sum += term;
            }
        });
    })
}

pub(super) fn add_bias(y: &Tensor, bias: &Tensor) -> Result<()> {
    let bias = view(bias)?;
    let bias = &*bias;
    edit(y, |y| {
        parallel::rows(y, bias.len(), |_, row| {
            for (y, bias) in row.iter_mut().zip(bias) {
                *y += bias;
            }
        });
    })
}

pub(super) fn sum(dy: &Tensor) -> Result<Tensor> {
    let (_, width) = dy.dims2()?;
    let dy = view(dy)?;
    tensor(
        sum_over_rows(&dy, width, |_, row, sum| {
            for (sum, dy) in sum.iter_mut().zip(row) {
                *sum += dy;
            }
        }),
        &[width],
    )
}

pub(super) fn scale(y: &Tensor, factor: &Tensor) -> Result<()> {
    let factor = view(factor)?;
    let factor = &*factor;
    edit(y, |y| {
        parallel::rows(y, factor.len(), |_, row| {
            for (y, factor) in row.iter_mut().zip(factor) {
                *y *= factor;
            }
        });
    })
}

pub(super) fn dot_rows(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (_, width) = dy.dims2()?;
    let (dy, y) = (view(dy)?, view(y)?);
    let y = &*y;
    let sum = sum_over_rows(&dy, width, |t, dy, sum| {
        for ((sum, dy), y) in sum.iter_mut().zip(dy).zip(&y[t * width..]) {
            *sum += dy * y;
        }
    });
    tensor(sum, &[width])
}

pub(super) fn dropout(x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let mut numbers = view(x)?.to_vec();
    parallel::rows(&mut numbers, width, |t, row| {
        mask.row(t, width, |column, factor| row[column] *= factor);
    });
    tensor(numbers, &[tokens, width])
}

/// Sums over rows into one of `width`: every task into its own, then the tasks' in order.
pub(super) fn sum_over_rows(
    numbers: &[f32],
    width: usize,
    each: impl Fn(usize, &[f32], &mut [f32]) + Sync,
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

pub(super) fn gather(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (_, width) = table.dims2()?;
    let table = view(table)?;
    let mut out = Vec::with_capacity(ids.len() * width);
    for id in ids {
        out.extend_from_slice(&table[*id as usize * width..][..width]);
    }
    tensor(out, &[ids.len(), width])
}

pub(super) fn scatter_add(dtable: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()> {
    let (_, width) = dtable.dims2()?;
    let dy = view(dy)?;
    edit(dtable, |dtable| {
        // One after another: the same id may come twice.
        for (id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
            let row = &mut dtable[*id as usize * width..][..width];
            row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
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
            y.iter_mut().zip(w.chunks_exact(width)).for_each(|(y, w)| *y = dot(x, w));
        });
    }
    tensor(y, &[tokens, outs])
}

/// One pass over `y`: a row and the few rows of `m` stay in the nearest cache, where a product into a buffer and an
/// addition would carry `[T, n]` to memory and back three times.
pub(super) fn add_low_rank(y: &Tensor, c: &Tensor, m: &Tensor) -> Result<()> {
    let (rank, width) = m.dims2()?;
    let (c, m) = (view(c)?, view(m)?);
    let (c, m) = (&*c, &*m);
    edit(y, |y| {
        parallel::rows(y, width, |t, y| {
            let c = &c[t * rank..][..rank];
            for (c, m) in c.chunks(4).zip(m.chunks(4 * width)) {
                if let [c0, c1, c2, c3] = *c {
                    let (m0, m) = m.split_at(width);
                    let (m1, m) = m.split_at(width);
                    let (m2, m3) = m.split_at(width);
                    for ((((y, m0), m1), m2), m3) in y.iter_mut().zip(m0).zip(m1).zip(m2).zip(m3) {
                        *y += (c0 * m0 + c1 * m1) + (c2 * m2 + c3 * m3);
                    }
                } else {
                    for (c, m) in c.iter().zip(m.chunks_exact(width)) {
                        y.iter_mut().zip(m).for_each(|(y, m)| *y += c * m);
                    }
                }
            }
        });
    })
}
