//! Functions of single numbers, and rotary positions.

use std::sync::Arc;

use fleetune_shared::Activation;

use super::super::case::{Case, Work};
use super::super::numbers::Numbers;
use super::super::size::Size;
use super::FUNCTION;
use crate::Result;
use crate::ops::{Rotary, Turn};

const CAP: f64 = 2.0;

pub(super) fn cases(size: &Size) -> Result<Vec<Case>> {
    let Size { tokens, inner, .. } = *size;
    let mut numbers = Numbers::default();
    let gate = numbers.tensor(&[tokens, inner], 4.0)?;
    let up = numbers.tensor(&[tokens, inner], 1.0)?;
    let dy = numbers.tensor(&[tokens, inner], 1.0)?;
    let count = tokens * inner;
    let forward = || vec![gate.clone(), up.clone()];
    let backward = || vec![gate.clone(), up.clone(), dy.clone()];
    let mut cases = Vec::new();
    for (op, op_backward, activation) in [
        ("gated, silu", "gated_backward, silu", Activation::Silu),
        ("gated, gelu", "gated_backward, gelu", Activation::GeluTanh),
    ] {
        cases.extend([
            Case::new(op, FUNCTION, Work::Floats(3 * count), forward(), move |ops, t| {
                Ok(vec![ops.gated(activation, &t[0], &t[1])?])
            })
            .of_activations(&[0, 1]),
            Case::new(op_backward, FUNCTION, Work::Floats(5 * count), backward(), move |ops, t| {
                let (dgate, dup) = ops.gated_backward(activation, &t[0], &t[1], &t[2])?;
                Ok(vec![dgate, dup])
            })
            .of_activations(&[0, 1, 2]),
        ]);
    }
    cases.extend([
        Case::new("soft_cap", FUNCTION, Work::Floats(2 * count), vec![gate], |ops, t| {
            ops.soft_cap(&t[0], CAP)?;
            Ok(vec![t[0].clone()])
        }),
        Case::new(
            "soft_cap_backward",
            FUNCTION,
            Work::Floats(3 * count),
            vec![dy, up],
            |ops, t| {
                ops.soft_cap_backward(&t[0], &t[1], CAP)?;
                Ok(vec![t[0].clone()])
            },
        ),
    ]);
    cases.extend(rotations(size, &mut numbers)?);
    Ok(cases)
}

/// Turns of most of each head, the rest of which stays.
fn rotations(size: &Size, numbers: &mut Numbers) -> Result<[Case; 2]> {
    let Size { tokens, heads, head_dim, .. } = *size;
    let x = numbers.tensor(&[tokens, heads * head_dim], 1.0)?;
    let half = (head_dim / 2).saturating_sub(1).max(1);
    let angle = |i: usize| (i / half) as f32 / (1 + i % half) as f32;
    let rotary = Arc::new(Rotary {
        cos: (0..tokens * half).map(|i| angle(i).cos()).collect(),
        sin: (0..tokens * half).map(|i| angle(i).sin()).collect(),
        half,
        head_dim,
    });
    let work = Work::Floats(2 * tokens * heads * head_dim);
    Ok([("rotate", Turn::Forth), ("rotate back", Turn::Back)].map(|(op, turn)| {
        let rotary = Arc::clone(&rotary);
        Case::new(op, FUNCTION, work, vec![x.clone()], move |ops, t| {
            ops.rotate(&t[0], &rotary, turn)?;
            Ok(vec![t[0].clone()])
        })
        .of_activations(&[0])
    }))
}
