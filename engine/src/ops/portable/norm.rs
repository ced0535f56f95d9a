//! RMSNorm (arXiv 1910.07467).

use candle_core::Tensor;
use rayon::prelude::*;

use super::reduce::{dot, dot3};
use super::{parallel, rows};
use crate::Result;
use crate::ops::number::Number;
use crate::ops::slices::{edit_as, tensor, view, view_as, written};
use crate::ops::wide::wide;

wide! {
    /// One row; gives its `rstd`.
    fn forward_row[X: Number, Y: Number](y: &mut [Y], x: &[X], weight: &[f32], eps: f64) -> f32 {
        let mean = dot(x, x) / x.len() as f32;
        let rstd = (1.0 / (f64::from(mean) + eps).sqrt()) as f32;
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = Y::narrow(x.widen() * rstd * weight);
        }
        rstd
    }
}

pub(crate) fn forward<X: Number, Y: Number>(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = x.dims2()?;
    let (x, weight) = (view_as::<X>(x)?, view(weight)?);
    let (x, weight) = (&*x, &*weight);
    let mut rstd = vec![0.0; tokens];
    let task = parallel::rows_per_task(width);
    let write = |y: &mut [Y]| {
        let outs = y.par_chunks_mut(task * width).zip(rstd.par_chunks_mut(task));
        outs.zip(x.par_chunks(task * width)).for_each(|((y, rstd), x)| {
            let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
            for ((y, x), rstd) in rows.zip(rstd) {
                *rstd = forward_row(y, x, weight, eps);
            }
        });
    };
    let (y, ()) = written(x.len(), write);
    Ok((tensor(y, &[tokens, width])?, tensor(rstd, &[tokens])?))
}

wide! {
    fn backward_row[Y: Number, X: Number, D: Number](
        dx: &mut [D],
        dy: &[Y],
        x: &[X],
        weight: &[f32],
        rstd: f32,
    ) {
        let mean = dot3(dy, weight, x) * rstd / x.len() as f32;
        for (((dx, dy), x), weight) in dx.iter_mut().zip(dy).zip(x).zip(weight) {
            let more = rstd * (dy.widen() * weight - x.widen() * rstd * mean);
            *dx = D::narrow(dx.widen() + more);
        }
    }
}

/// With x̂ = x · rstd: `dx += rstd · (dy·w − x̂ · mean(dy · w · x̂))`.
pub(crate) fn backward<Y: Number, X: Number, D: Number>(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
) -> Result<()> {
    let (_, width) = x.dims2()?;
    let (dy, x, weight, rstd) = (view_as::<Y>(dy)?, view_as::<X>(x)?, view(weight)?, view(rstd)?);
    let (dy, x, weight, rstd) = (&*dy, &*x, &*weight, &*rstd);
    edit_as(dx, |dx: &mut [D]| {
        parallel::rows(dx, width, |t, dx| {
            let (dy, x) = (&dy[t * width..][..width], &x[t * width..][..width]);
            backward_row(dx, dy, x, weight, rstd[t]);
        });
    })
}

wide! {
    fn add_row[Y: Number, X: Number](sum: &mut [f32], dy: &[Y], x: &[X], rstd: f32) {
        for ((sum, dy), x) in sum.iter_mut().zip(dy).zip(x) {
            *sum += dy.widen() * x.widen() * rstd;
        }
    }
}

pub(crate) fn backward_weight<Y: Number, X: Number>(
    dy: &Tensor,
    x: &Tensor,
    rstd: &Tensor,
) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    let (dy, x, rstd) = (view_as::<Y>(dy)?, view_as::<X>(x)?, view(rstd)?);
    let (x, rstd) = (&*x, &*rstd);
    let sum = rows::sum_over_rows(&dy, width, |t, dy, sum| {
        add_row(sum, dy, &x[t * width..][..width], rstd[t]);
    });
    tensor(sum, &[width])
}
