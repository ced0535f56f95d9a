//! Soft caps.

use candle_core::Tensor;

use super::launch::{Arg, Card, blocks, wants};
use crate::Result;

pub(super) fn forward(card: &dyn Card, x: &Tensor, cap: f32) -> Result<()> {
    wants(x, x.dims())?;
    let count = x.elem_count();
    let args = [Arg::Out(x), Arg::U64(count as u64), Arg::F32(cap)];
    card.launch("soft_cap", blocks(count), &args)
}

pub(super) fn backward(card: &dyn Card, dy: &Tensor, y: &Tensor, cap: f32) -> Result<()> {
    wants(dy, y.dims())?;
    wants(y, y.dims())?;
    let count = y.elem_count();
    let args = [Arg::Out(dy), Arg::In(y), Arg::U64(count as u64), Arg::F32(cap)];
    card.launch("soft_cap_backward", blocks(count), &args)
}
