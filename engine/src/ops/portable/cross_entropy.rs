//! Cross-entropy over rows of logits.

use candle_core::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::reduce::max;
use crate::Result;
use crate::ops::slices::{edit, view};

/// Numbers summed in f32 before they join an f64 sum: vocabularies are long.
const RUN: usize = 64;

pub(super) fn forward(logits: &Tensor, targets: &[u32]) -> Result<f64> {
    let (_, vocab) = logits.dims2()?;
    let logits = view(logits)?;
    // Collected in order, so that the sum does not depend on which core was first.
    let each: Vec<f64> = logits
        .par_chunks_exact(vocab)
        .zip(targets)
        .map(|(row, target)| log_sum_exp(row) - f64::from(row[*target as usize]))
        .collect();
    Ok(each.iter().sum())
}

pub(super) fn backward(logits: &Tensor, targets: &[u32], scale: f64) -> Result<f64> {
    let (_, vocab) = logits.dims2()?;
    let mut each = Vec::new();
    edit(logits, |logits| {
        logits
            .par_chunks_exact_mut(vocab)
            .zip(targets)
            .map(|(row, target)| {
                let target = *target as usize;
                let lse = log_sum_exp(row);
                let loss = lse - f64::from(row[target]);
                let (shift, scale) = (lse as f32, scale as f32);
                for logit in row.iter_mut() {
                    *logit = exp(*logit - shift) * scale;
                }
                row[target] -= scale;
                loss
            })
            .collect_into_vec(&mut each);
    })?;
    Ok(each.iter().sum())
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = max(row);
    let sum: f64 = row
        .chunks(RUN)
        .map(|run| {
            let mut sums = [0.0; 8];
            let whole = run.chunks_exact(8);
            let rest = whole.remainder();
            for eight in whole {
                sums.iter_mut().zip(eight).for_each(|(sum, logit)| *sum += exp(logit - max));
            }
            f64::from(sums.iter().sum::<f32>() + rest.iter().map(|l| exp(l - max)).sum::<f32>())
        })
        .sum();
    f64::from(max) + sum.ln()
}
