//! RMSNorm (arXiv 1910.07467).

use candle_core::Tensor;
use rayon::prelude::*;

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

/// Sums in eight lanes, which a compiler may run at once and which lose less than one long sum.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    lanes(
        a.chunks_exact(8).zip(b.chunks_exact(8)).map(|(a, b)| std::array::from_fn(|i| a[i] * b[i])),
    ) + a.iter().zip(b).skip(a.len() / 8 * 8).map(|(a, b)| a * b).sum::<f32>()
}

fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let whole = a.chunks_exact(8).zip(b.chunks_exact(8)).zip(c.chunks_exact(8));
    lanes(whole.map(|((a, b), c)| std::array::from_fn(|i| a[i] * b[i] * c[i])))
        + a.iter().zip(b).zip(c).skip(a.len() / 8 * 8).map(|((a, b), c)| a * b * c).sum::<f32>()
}

fn lanes(terms: impl Iterator<Item = [f32; 8]>) -> f32 {
    let mut sums = [0.0; 8];
    for term in terms {
        sums.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
    }
    sums.iter().sum()
}
