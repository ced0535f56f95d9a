//! RMSNorm (arXiv 1910.07467).

use candle_core::Tensor;
use rayon::prelude::*;

use super::reduce::{dot, dot3};
use super::{parallel, rows};
use crate::Result;
use crate::ops::slices::{edit, tensor, view};

pub(super) fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = x.dims2()?;
    let (x, weight) = (view(x)?, view(weight)?);
    let (x, weight) = (&*x, &*weight);
    let rstd: Vec<f32> = x
        .par_chunks_exact(width)
        .map(|x| {
            let mean = dot(x, x) / width as f32;
            (1.0 / (f64::from(mean) + eps).sqrt()) as f32
        })
        .collect();
    let mut y = vec![0.0; x.len()];
    parallel::rows(&mut y, width, |t, y| {
        let (x, rstd) = (&x[t * width..][..width], rstd[t]);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * rstd * weight;
        }
    });
    Ok((tensor(y, &[tokens, width])?, tensor(rstd, &[tokens])?))
}

/// With x̂ = x · rstd: `dx += rstd · (dy·w − x̂ · mean(dy · w · x̂))`.
pub(super) fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
) -> Result<()> {
    let (_, width) = x.dims2()?;
    let (dy, x, weight, rstd) = (view(dy)?, view(x)?, view(weight)?, view(rstd)?);
    let (dy, x, weight, rstd) = (&*dy, &*x, &*weight, &*rstd);
    edit(dx, |dx| {
        parallel::rows(dx, width, |t, dx| {
            let (dy, x, rstd) = (&dy[t * width..][..width], &x[t * width..][..width], rstd[t]);
            let mean = dot3(dy, weight, x) * rstd / width as f32;
            for (((dx, dy), x), weight) in dx.iter_mut().zip(dy).zip(x).zip(weight) {
                *dx += rstd * (dy * weight - x * rstd * mean);
            }
        });
    })
}

pub(super) fn backward_weight(dy: &Tensor, x: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    let (dy, x, rstd) = (view(dy)?, view(x)?, view(rstd)?);
    let (x, rstd) = (&*x, &*rstd);
    let sum = rows::sum_over_rows(&dy, width, |t, dy, sum| {
        for ((sum, dy), x) in sum.iter_mut().zip(dy).zip(&x[t * width..]) {
            *sum += dy * x * rstd[t];
        }
    });
    tensor(sum, &[width])
}
