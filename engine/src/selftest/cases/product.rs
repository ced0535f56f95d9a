//! Products with weights.

use std::sync::Arc;

use candle_core::Tensor;

use super::super::case::{Case, Work};
use super::super::numbers::Numbers;
use super::super::size::Size;
use super::SUM;
use crate::Result;
use crate::ops::{LowRank, Onto};
use crate::quant::{FourBit, FourBitKind, PackedMatrix, Weight};

pub(super) fn cases(size: &Size) -> Result<Vec<Case>> {
    let Size { tokens, hidden, inner, rank, .. } = *size;
    let mut numbers = Numbers::default();
    let x = numbers.tensor(&[tokens, hidden], 1.0)?;
    let w = numbers.tensor(&[inner, hidden], 1.0)?;
    let dy = numbers.tensor(&[tokens, inner], 1.0)?;
    let c = numbers.tensor(&[tokens, rank], 1.0)?;
    let m = numbers.tensor(&[rank, inner], 1.0)?;
    let flops = 2 * tokens * hidden * inner;
    let one = x.narrow(0, 0, 1)?.contiguous()?;
    let packed = packed(&w)?;
    let again = packed.clone();
    Ok(vec![
        Case::new("project", SUM, Work::Flops(flops), vec![x.clone(), w.clone()], |ops, t| {
            Ok(vec![ops.project(&t[0], &t[1])?])
        })
        .of_activations(&[0]),
        Case::new(
            "project, one token",
            SUM,
            Work::Floats(hidden * inner),
            vec![one, w.clone()],
            |ops, t| Ok(vec![ops.project(&t[0], &t[1])?]),
        )
        .of_activations(&[0]),
        Case::new("project_dx", SUM, Work::Flops(flops), vec![dy.clone(), w.clone()], |ops, t| {
            Ok(vec![ops.project_dx(&t[0], &t[1])?])
        })
        .of_activations(&[0]),
        Case::new("project_dw", SUM, Work::Flops(flops), vec![dy.clone(), x.clone()], |ops, t| {
            Ok(vec![ops.project_dw(&t[0], &t[1])?])
        })
        .of_activations(&[0, 1]),
        Case::new(
            "linear, low rank",
            SUM,
            Work::Flops(flops + 2 * tokens * rank * inner),
            vec![x.clone(), w.clone(), c.clone(), m.clone()],
            |ops, t| {
                let low = LowRank { c: &t[2], m: &t[3] };
                let w = Weight::F32(t[1].clone());
                Ok(vec![ops.linear(&t[0], &w, Some(low), Onto::New)?])
            },
        )
        .of_activations(&[0, 2]),
        Case::new(
            "linear_dx, added",
            SUM,
            Work::Flops(flops),
            vec![dy.clone(), w, x.clone()],
            |ops, t| {
                let w = Weight::F32(t[1].clone());
                Ok(vec![ops.linear_dx(&t[0], &w, None, Onto::Sum(t[2].clone()))?])
            },
        )
        .of_activations(&[0]),
        Case::new("linear, NF4", SUM, Work::Flops(flops), vec![x], move |ops, t| {
            Ok(vec![ops.linear(&t[0], &packed, None, Onto::New)?])
        })
        .of_activations(&[0]),
        Case::new("linear_dx, NF4", SUM, Work::Flops(flops), vec![dy.clone()], move |ops, t| {
            Ok(vec![ops.linear_dx(&t[0], &again, None, Onto::New)?])
        })
        .of_activations(&[0]),
        Case::new(
            "add_low_rank",
            SUM,
            Work::Floats(2 * tokens * inner),
            vec![dy, c, m],
            |ops, t| {
                ops.add_low_rank(&t[0], &t[1], &t[2])?;
                Ok(vec![t[0].clone()])
            },
        )
        .of_activations(&[1]),
    ])
}

/// The weight in four bits, its block constants in eight.
fn packed(w: &Tensor) -> Result<Weight> {
    let numbers: Vec<f32> = w.flatten_all()?.to_vec1()?;
    let packed = FourBit::encode(&numbers, FourBitKind::Nf4, true);
    Ok(Weight::Packed(PackedMatrix::new(Arc::new(packed), w.dim(1)?)))
}
