//! Sums, factors and gathers of rows.

use candle_core::{DType, Device, Tensor};

use super::super::case::{Case, Work};
use super::super::numbers::Numbers;
use super::super::size::Size;
use super::{EXACT, SUM};
use crate::Result;
use crate::ops::DropoutMask;

pub(super) fn cases(size: &Size) -> Result<Vec<Case>> {
    let Size { tokens, hidden, inner, .. } = *size;
    let mut numbers = Numbers::default();
    let a = numbers.tensor(&[tokens, inner], 1.0)?;
    let b = numbers.tensor(&[tokens, inner], 1.0)?;
    let row = numbers.tensor(&[inner], 2.0)?;
    let table = numbers.tensor(&[inner, hidden], 1.0)?;
    let dy = numbers.tensor(&[tokens, hidden], 1.0)?;
    // Few enough rows that most come twice.
    let ids = numbers.ids(tokens, inner.min(tokens / 2));
    let (again, halved) = (ids.clone(), ids.clone());
    let count = tokens * inner;
    let mask = DropoutMask::new(std::array::from_fn(|i| 7 * i as u8 + 1), 5 << 40 | 3, 0.1);
    Ok(vec![
        Case::new("add", EXACT, Work::Floats(3 * count), vec![a.clone(), b.clone()], |ops, t| {
            ops.add(&t[0], &t[1])?;
            Ok(vec![t[0].clone()])
        }),
        Case::new(
            "add_bias",
            EXACT,
            Work::Floats(2 * count),
            vec![a.clone(), row.clone()],
            |ops, t| {
                ops.add_bias(&t[0], &t[1])?;
                Ok(vec![t[0].clone()])
            },
        ),
        Case::new("scale", EXACT, Work::Floats(2 * count), vec![a.clone(), row], |ops, t| {
            ops.scale(&t[0], &t[1])?;
            Ok(vec![t[0].clone()])
        }),
        Case::new("sum_rows", SUM, Work::Floats(count), vec![a.clone()], |ops, t| {
            Ok(vec![ops.sum_rows(&t[0])?])
        }),
        Case::new("dot_rows", SUM, Work::Floats(2 * count), vec![a.clone(), b], |ops, t| {
            Ok(vec![ops.dot_rows(&t[0], &t[1])?])
        }),
        Case::new("sum_of_squares", SUM, Work::Floats(count), vec![a.clone()], |ops, t| {
            Ok(vec![Tensor::new(ops.sum_of_squares(&t[0])?, &Device::Cpu)?])
        }),
        Case::new("dropout", EXACT, Work::Floats(2 * count), vec![a], move |ops, t| {
            Ok(vec![ops.dropout(&t[0], &mask)?])
        }),
        Case::new(
            "gather",
            EXACT,
            Work::Floats(2 * tokens * hidden),
            vec![table.clone()],
            move |ops, t| Ok(vec![ops.gather(&t[0], &ids)?]),
        ),
        Case::new(
            "gather_bf16",
            EXACT,
            Work::Floats(3 * tokens * hidden / 2),
            vec![table.to_dtype(DType::BF16)?],
            move |ops, t| Ok(vec![ops.gather(&t[0], &halved)?]),
        ),
        Case::new(
            "scatter_add",
            SUM,
            Work::Floats(3 * tokens * hidden),
            vec![table, dy],
            move |ops, t| {
                ops.scatter_add(&t[0], &again, &t[1])?;
                Ok(vec![t[0].clone()])
            },
        ),
    ])
}
