//! Products with weights.

use super::super::case::{Case, Work};
use super::super::numbers::Numbers;
use super::super::size::Size;
use super::SUM;
use crate::Result;

pub(super) fn cases(size: &Size) -> Result<Vec<Case>> {
    let Size { tokens, hidden, inner, rank, .. } = *size;
    let mut numbers = Numbers::default();
    let x = numbers.tensor(&[tokens, hidden], 1.0)?;
    let w = numbers.tensor(&[inner, hidden], 1.0)?;
    let dy = numbers.tensor(&[tokens, inner], 1.0)?;
    let c = numbers.tensor(&[tokens, rank], 1.0)?;
    let m = numbers.tensor(&[rank, inner], 1.0)?;
    // A piece of a wider result, as tiles of a packed weight are multiplied.
    let (from, rows) = (inner / 3, inner / 2);
    let piece = w.narrow(0, from, rows)?.contiguous()?;
    let flops = 2 * tokens * hidden * inner;
    let one = x.narrow(0, 0, 1)?.contiguous()?;
    Ok(vec![
        Case::new("project", SUM, Work::Flops(flops), vec![x.clone(), w.clone()], |ops, t| {
            Ok(vec![ops.project(&t[0], &t[1])?])
        }),
        Case::new(
            "project, one token",
            SUM,
            Work::Floats(hidden * inner),
            vec![one, w.clone()],
            |ops, t| Ok(vec![ops.project(&t[0], &t[1])?]),
        ),
        Case::new("project_dx", SUM, Work::Flops(flops), vec![dy.clone(), w], |ops, t| {
            Ok(vec![ops.project_dx(&t[0], &t[1])?])
        }),
        Case::new("project_dw", SUM, Work::Flops(flops), vec![dy.clone(), x.clone()], |ops, t| {
            Ok(vec![ops.project_dw(&t[0], &t[1])?])
        }),
        Case::new(
            "project_into",
            SUM,
            Work::Flops(2 * tokens * hidden * rows),
            vec![dy.clone(), x.clone(), piece.clone()],
            move |ops, t| {
                ops.project_into(&t[0], from, &t[1], &t[2])?;
                Ok(vec![t[0].clone()])
            },
        ),
        Case::new(
            "add_project_dx",
            SUM,
            Work::Flops(2 * tokens * hidden * rows),
            vec![x, dy.clone(), piece],
            move |ops, t| {
                ops.add_project_dx(&t[0], &t[1], from, &t[2])?;
                Ok(vec![t[0].clone()])
            },
        ),
        Case::new(
            "add_low_rank",
            SUM,
            Work::Floats(2 * tokens * inner),
            vec![dy, c, m],
            |ops, t| {
                ops.add_low_rank(&t[0], &t[1], &t[2])?;
                Ok(vec![t[0].clone()])
            },
        ),
    ])
}
