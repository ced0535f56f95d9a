//! RMSNorm.

use super::super::case::{Case, Work};
use super::super::numbers::Numbers;
use super::super::size::Size;
use super::{FUNCTION, SUM};
use crate::Result;
use crate::ops::{Backend, Portable};

const EPS: f64 = 1e-5;

pub(super) fn cases(size: &Size) -> Result<Vec<Case>> {
    let Size { tokens, hidden, .. } = *size;
    let mut numbers = Numbers::default();
    let x = numbers.tensor(&[tokens, hidden], 2.0)?;
    let weight = numbers.tensor(&[hidden], 1.5)?;
    let dy = numbers.tensor(&[tokens, hidden], 1.0)?;
    let dx = numbers.tensor(&[tokens, hidden], 1.0)?;
    let (_, rstd) = Portable.rms_norm(&x, &weight, EPS)?;
    let count = tokens * hidden;
    let forward = vec![x.clone(), weight.clone()];
    Ok(vec![
        Case::new("rms_norm", FUNCTION, Work::Floats(2 * count), forward, |ops, t| {
            let (y, rstd) = ops.rms_norm(&t[0], &t[1], EPS)?;
            Ok(vec![y, rstd])
        }),
        Case::new(
            "rms_norm_backward",
            SUM,
            Work::Floats(4 * count),
            vec![dy, x, weight, rstd, dx],
            |ops, t| {
                let dweight = ops.rms_norm_backward(&t[0], &t[1], &t[2], &t[3], &t[4], true)?;
                Ok([t[4].clone()].into_iter().chain(dweight).collect())
            },
        )
        .of_activations(&[0]),
    ])
}
