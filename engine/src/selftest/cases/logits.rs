//! Losses over rows of logits.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::super::case::{Case, Work};
use super::super::numbers::Numbers;
use super::super::size::Size;
use super::SUM;
use crate::Result;
use crate::ops::Backend;

const SMOOTHING: f64 = 0.1;
const SCALE: f64 = 0.25;

/// Results that are plain numbers.
fn plain(numbers: &[f64]) -> Result<Tensor> {
    Ok(Tensor::new(numbers, &Device::Cpu)?)
}

pub(super) fn cases(size: &Size) -> Result<Vec<Case>> {
    let Size { vocab, labels, .. } = *size;
    let mut numbers = Numbers::default();
    let logits = numbers.tensor(&[labels, vocab], 8.0)?;
    let targets: Arc<[u32]> = numbers.ids(labels, vocab).into();
    let slopes: Vec<f64> = (0..labels).map(|row| 0.5 - row as f64 / labels as f64).collect();
    let count = labels * vocab;
    // Every case has the same inputs; `backward` says whether they are written, and compared.
    let case = |op, backward: bool, run: Box<Loss>| {
        let work = Work::Floats(if backward { 2 * count } else { count });
        Case::new(op, SUM, work, vec![logits.clone()], move |ops, t| {
            let mut results = vec![plain(&run(ops, &t[0])?)?];
            if backward {
                results.push(t[0].clone());
            }
            Ok(results)
        })
    };
    let targets = || Arc::clone(&targets);
    let (of, of_smooth, of_backward, of_both) = (targets(), targets(), targets(), targets());
    let (of_logps, of_slopes) = (targets(), targets());
    Ok(vec![
        case(
            "cross_entropy",
            false,
            Box::new(move |ops, t| Ok(vec![ops.cross_entropy(t, &of, 0.0)?])),
        ),
        case(
            "cross_entropy, smoothed",
            false,
            Box::new(move |ops, t| Ok(vec![ops.cross_entropy(t, &of_smooth, SMOOTHING)?])),
        ),
        case(
            "cross_entropy_backward",
            true,
            Box::new(move |ops, t| {
                Ok(vec![ops.cross_entropy_backward(t, &of_backward, 0.0, SCALE)?])
            }),
        ),
        case(
            "cross_entropy_backward, smoothed",
            true,
            Box::new(move |ops, t| {
                Ok(vec![ops.cross_entropy_backward(t, &of_both, SMOOTHING, SCALE)?])
            }),
        ),
        case("log_probs", false, Box::new(move |ops, t| ops.log_probs(t, &of_logps))),
        case(
            "log_probs_backward",
            true,
            Box::new(move |ops, t| {
                ops.log_probs_backward(t, &of_slopes, &slopes)?;
                Ok(Vec::new())
            }),
        ),
        case("log_collisions", false, Box::new(|ops, t| ops.log_collisions(t))),
    ])
}

/// A loss of logits, which it may overwrite.
type Loss = dyn Fn(&dyn Backend, &Tensor) -> Result<Vec<f64>>;
