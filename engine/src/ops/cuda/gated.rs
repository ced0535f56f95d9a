//! Gated activations.

use candle_core::{DType, Tensor};
use fleetune_shared::Activation;

use super::launch::{Arg, Card, blocks, wants};
use crate::Result;

/// The number `kernels/gated.cu` knows an activation by.
fn number(activation: Activation) -> Arg<'static> {
    Arg::U32(match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
    })
}

pub(super) fn forward(
    card: &dyn Card,
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Tensor> {
    wants(gate, gate.dims())?;
    wants(up, gate.dims())?;
    let y = card.zeros(gate.dims(), DType::F32)?;
    let count = gate.elem_count();
    let args =
        [Arg::In(gate), Arg::In(up), Arg::Out(&y), Arg::U64(count as u64), number(activation)];
    card.launch("gated", blocks(count), &args)?;
    Ok(y)
}

pub(super) fn backward(
    card: &dyn Card,
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    for tensor in [gate, up, dy] {
        wants(tensor, gate.dims())?;
    }
    let dgate = card.zeros(gate.dims(), DType::F32)?;
    let dup = card.zeros(gate.dims(), DType::F32)?;
    let count = gate.elem_count();
    let args = [
        Arg::In(gate),
        Arg::In(up),
        Arg::In(dy),
        Arg::Out(&dgate),
        Arg::Out(&dup),
        Arg::U64(count as u64),
        number(activation),
    ];
    card.launch("gated_backward", blocks(count), &args)?;
    Ok((dgate, dup))
}
