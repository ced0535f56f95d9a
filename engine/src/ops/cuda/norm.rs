//! RMSNorm.

use candle_core::{DType, Tensor};

use super::launch::{Arg, Card, WARP, wants};
use crate::Result;

pub(super) fn forward(
    card: &dyn Card,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = x.dims2()?;
    wants(x, &[tokens, width])?;
    wants(weight, &[width])?;
    let y = card.zeros(&[tokens, width], DType::F32)?;
    let rstd = card.zeros(&[tokens], DType::F32)?;
    let args = [
        Arg::In(x),
        Arg::In(weight),
        Arg::Out(&y),
        Arg::Out(&rstd),
        Arg::size(width)?,
        Arg::F64(eps),
    ];
    card.launch("rms_norm", tokens, &args)?;
    Ok((y, rstd))
}

pub(super) fn backward(
    card: &dyn Card,
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
) -> Result<()> {
    let (tokens, width) = x.dims2()?;
    for matrix in [dy, x, dx] {
        wants(matrix, &[tokens, width])?;
    }
    wants(weight, &[width])?;
    wants(rstd, &[tokens])?;
    let args =
        [Arg::In(dy), Arg::In(x), Arg::In(weight), Arg::In(rstd), Arg::Out(dx), Arg::size(width)?];
    card.launch("rms_norm_backward", tokens, &args)
}

pub(super) fn backward_weight(
    card: &dyn Card,
    dy: &Tensor,
    x: &Tensor,
    rstd: &Tensor,
) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    wants(dy, &[tokens, width])?;
    wants(x, &[tokens, width])?;
    wants(rstd, &[tokens])?;
    let dweight = card.zeros(&[width], DType::F32)?;
    let args = [
        Arg::In(dy),
        Arg::In(x),
        Arg::In(rstd),
        Arg::Out(&dweight),
        Arg::size(tokens)?,
        Arg::size(width)?,
    ];
    card.launch("rms_norm_backward_weight", width.div_ceil(WARP), &args)?;
    Ok(dweight)
}
