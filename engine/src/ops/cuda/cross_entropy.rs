//! Cross-entropy and log-probabilities over rows of logits.

use candle_core::{DType, Tensor};

use super::launch::{Arg, Card, ids_within, refuse_unless, wants};
use crate::Result;

pub(super) fn forward(
    card: &dyn Card,
    logits: &Tensor,
    targets: &[u32],
    smoothing: f64,
) -> Result<f64> {
    let rows = Rows::new(card, logits)?;
    let (targets, losses) = (rows.targets(targets)?, rows.results()?);
    let args =
        [Arg::In(logits), Arg::In(&targets), Arg::Out(&losses), rows.vocab()?, Arg::F64(smoothing)];
    card.launch("cross_entropy", rows.count, &args)?;
    Ok(numbers(&losses)?.iter().sum())
}

pub(super) fn backward(
    card: &dyn Card,
    logits: &Tensor,
    targets: &[u32],
    smoothing: f64,
    scale: f64,
) -> Result<f64> {
    let rows = Rows::new(card, logits)?;
    let (targets, losses) = (rows.targets(targets)?, rows.results()?);
    let args = [
        Arg::Out(logits),
        Arg::In(&targets),
        Arg::Out(&losses),
        rows.vocab()?,
        Arg::F64(smoothing),
        Arg::F64(scale),
    ];
    card.launch("cross_entropy_backward", rows.count, &args)?;
    Ok(numbers(&losses)?.iter().sum())
}

pub(super) fn log_probs(card: &dyn Card, logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
    let rows = Rows::new(card, logits)?;
    let (targets, logps) = (rows.targets(targets)?, rows.results()?);
    let args = [Arg::In(logits), Arg::In(&targets), Arg::Out(&logps), rows.vocab()?];
    card.launch("log_probs", rows.count, &args)?;
    numbers(&logps)
}

pub(super) fn log_probs_backward(
    card: &dyn Card,
    logits: &Tensor,
    targets: &[u32],
    dlogps: &[f64],
) -> Result<()> {
    let rows = Rows::new(card, logits)?;
    refuse_unless(dlogps.len() == rows.count, || {
        format!("{} gradients for {} rows", dlogps.len(), rows.count)
    })?;
    let targets = rows.targets(targets)?;
    let dlogps: Vec<f32> = dlogps.iter().map(|dlogp| *dlogp as f32).collect();
    let dlogps = card.upload(&dlogps)?;
    let args = [Arg::Out(logits), Arg::In(&targets), Arg::In(&dlogps), rows.vocab()?];
    card.launch("log_probs_backward", rows.count, &args)
}

pub(super) fn log_collisions(card: &dyn Card, logits: &Tensor) -> Result<Vec<f64>> {
    let rows = Rows::new(card, logits)?;
    let collisions = rows.results()?;
    let args = [Arg::In(logits), Arg::Out(&collisions), rows.vocab()?];
    card.launch("log_collisions", rows.count, &args)?;
    numbers(&collisions)
}

/// Logits, looked at.
struct Rows<'a> {
    card: &'a dyn Card,
    count: usize,
    vocab: usize,
}

impl<'a> Rows<'a> {
    fn new(card: &'a dyn Card, logits: &Tensor) -> Result<Self> {
        let (count, vocab) = logits.dims2()?;
        wants(logits, &[count, vocab])?;
        Ok(Self { card, count, vocab })
    }

    fn vocab(&self) -> Result<Arg<'static>> {
        Arg::size(self.vocab)
    }

    fn targets(&self, targets: &[u32]) -> Result<Tensor> {
        ids_within(targets, self.count, self.vocab)?;
        self.card.upload(targets)
    }

    /// Room for a number of each row.
    fn results(&self) -> Result<Tensor> {
        self.card.zeros(&[self.count], DType::F64)
    }
}

fn numbers(results: &Tensor) -> Result<Vec<f64>> {
    Ok(results.to_vec1()?)
}
