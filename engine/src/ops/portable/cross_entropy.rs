//! Cross-entropy and log-probabilities over rows of logits.

use candle_core::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::reduce::max;
use crate::Result;
use crate::ops::slices::{edit, view};
use crate::ops::wide::wide;

/// Lanes a row's exponentials are summed in, as PyTorch's `log_softmax` does with AVX-512.
const LANES: usize = 16;

pub(crate) fn forward(logits: &Tensor, targets: &[u32], smoothing: f64) -> Result<f64> {
    let (_, vocab) = logits.dims2()?;
    let logits = view(logits)?;
    let rows = logits.par_chunks_exact(vocab).zip(targets);
    let losses = rows.map(|(row, target)| loss(row, *target, log_sum_exp(row), smoothing));
    // Summed in order, so that the sum does not depend on which core was first.
    Ok(losses.collect::<Vec<_>>().iter().sum())
}

/// Of one row, whose log-sum-exp is known.
fn loss(row: &[f32], target: u32, lse: f64, smoothing: f64) -> f64 {
    let likely = lse - f64::from(row[target as usize]);
    if smoothing == 0.0 {
        return likely;
    }
    let mean = row.iter().map(|logit| f64::from(*logit)).sum::<f64>() / row.len() as f64;
    (1.0 - smoothing) * likely + smoothing * (lse - mean)
}

pub(crate) fn log_probs(logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
    let (_, vocab) = logits.dims2()?;
    let logits = view(logits)?;
    let rows = logits.par_chunks_exact(vocab).zip(targets);
    Ok(rows.map(|(row, target)| f64::from(row[*target as usize]) - log_sum_exp(row)).collect())
}

pub(crate) fn log_probs_backward(logits: &Tensor, targets: &[u32], dlogps: &[f64]) -> Result<()> {
    let (_, vocab) = logits.dims2()?;
    edit(logits, |logits| {
        let rows = logits.par_chunks_exact_mut(vocab).zip(targets).zip(dlogps);
        rows.for_each(|((row, target), dlogp)| {
            let (shift, scale) = (log_sum_exp(row) as f32, -dlogp as f32);
            soften(row, shift, scale, 0.0);
            row[*target as usize] -= scale;
        });
    })
}

pub(crate) fn log_collisions(logits: &Tensor) -> Result<Vec<f64>> {
    let (_, vocab) = logits.dims2()?;
    let each = |row: &[f32]| {
        let max = max(row);
        let (mut sum, mut squares) = (0.0, 0.0);
        for logit in row {
            let weight = f64::from(exp(logit - max));
            sum += weight;
            squares += weight * weight;
        }
        squares.ln() - 2.0 * sum.ln()
    };
    let logits = view(logits)?;
    Ok(logits.par_chunks_exact(vocab).map(each).collect())
}

pub(crate) fn backward(
    logits: &Tensor,
    targets: &[u32],
    smoothing: f64,
    scale: f64,
) -> Result<f64> {
    let (_, vocab) = logits.dims2()?;
    let mut each = Vec::new();
    edit(logits, |logits| {
        logits
            .par_chunks_exact_mut(vocab)
            .zip(targets)
            .map(|(row, target)| {
                let lse = log_sum_exp(row);
                let loss = loss(row, *target, lse, smoothing);
                let shift = lse as f32;
                // What every entry of the vocabulary is given of the label, and what the label keeps.
                let spread = (scale * smoothing / vocab as f64) as f32;
                let kept = (scale * (1.0 - smoothing)) as f32;
                let scale = scale as f32;
                soften(row, shift, scale, spread);
                row[*target as usize] -= kept;
                loss
            })
            .collect_into_vec(&mut each);
    })?;
    Ok(each.iter().sum())
}

wide! {
    /// Each logit becomes `exp(logit − shift) · scale − spread`.
    fn soften(row: &mut [f32], shift: f32, scale: f32, spread: f32) {
        for logit in row.iter_mut() {
            *logit = exp(*logit - shift) * scale - spread;
        }
    }
}

wide! {
    /// In f32 over the whole row. Sums in f64 are nearer the truth by 3e-6 in SmolLM2's first loss, but PyTorch's curve
    /// of full fine-tuning is then left by up to 5e-4 within twenty steps, where these follow it to 5e-5.
    fn log_sum_exp(row: &[f32]) -> f64 {
        let max = max(row);
        let mut sums = [0f32; LANES];
        let whole = row.chunks_exact(LANES);
        let rest = whole.remainder();
        for chunk in whole {
            sums.iter_mut().zip(chunk).for_each(|(sum, logit)| *sum += exp(logit - max));
        }
        let sum = sums.iter().sum::<f32>() + rest.iter().map(|l| exp(l - max)).sum::<f32>();
        f64::from(max) + f64::from(sum).ln()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Smoothed {
        logits: Vec<Vec<f32>>,
        labels: Vec<u32>,
        epsilon: f64,
        loss: f64,
        gradient: Vec<Vec<f32>>,
    }

    #[test]
    fn smoothing_is_that_of_transformers() {
        let text = include_str!("../../../../tests/fixtures/label_smoothing.json");
        let Smoothed { logits, labels, epsilon, loss, gradient } =
            serde_json::from_str(text).unwrap();
        let logits = Tensor::new(logits, &Device::Cpu).unwrap();
        let rows = labels.len() as f64;
        let found = forward(&logits, &labels, epsilon).unwrap() / rows;
        assert!((found - loss).abs() < 1e-6 * loss, "{found} ≠ {loss}");
        assert!((forward(&logits, &labels, 0.0).unwrap() / rows - loss).abs() > 0.01);
        let found = backward(&logits, &labels, epsilon, 1.0 / rows).unwrap() / rows;
        assert!((found - loss).abs() < 1e-6 * loss, "{found} ≠ {loss}");
        let numbers = view(&logits).unwrap();
        for (found, expected) in numbers.iter().zip(gradient.concat()) {
            assert!((found - expected).abs() < 1e-6, "{found} ≠ {expected}");
        }
    }
}
