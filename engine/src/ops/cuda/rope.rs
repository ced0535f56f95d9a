//! Rotary positions.

use candle_core::Tensor;

use super::launch::{Arg, Card, blocks, refuse_unless, wants};
use crate::Result;
use crate::ops::{Rotary, Turn};

/// Carries the angles to the card each time; they are small beside what is turned.
pub(super) fn rotate(card: &dyn Card, x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()> {
    let (tokens, width) = x.dims2()?;
    let (half, head_dim) = (rotary.half, rotary.head_dim);
    wants(x, &[tokens, width])?;
    refuse_unless(
        rotary.cos.len() == tokens * half
            && rotary.sin.len() == tokens * half
            && width.is_multiple_of(head_dim)
            && 2 * half <= head_dim,
        || format!("{} angles for {tokens} tokens of width {width}", rotary.cos.len()),
    )?;
    let (cos, sin) = (card.upload(&rotary.cos)?, card.upload(&rotary.sin)?);
    let heads = width / head_dim;
    let pairs = tokens * heads * half;
    let sign = match turn {
        Turn::Forth => 1.0,
        Turn::Back => -1.0,
    };
    let args = [
        Arg::Out(x),
        Arg::In(&cos),
        Arg::In(&sin),
        Arg::U64(pairs as u64),
        Arg::size(heads)?,
        Arg::size(head_dim)?,
        Arg::size(half)?,
        Arg::F32(sign),
    ];
    card.launch("rotate", blocks(pairs), &args)
}
