//! Dropout.

use candle_core::{DType, Tensor};

use super::launch::{Arg, Card, blocks, wants};
use crate::Result;
use crate::ops::DropoutMask;

pub(super) fn dropout(card: &dyn Card, x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    wants(x, &[tokens, width])?;
    let key: Vec<u32> =
        mask.key.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let key = card.upload(&key)?;
    let y = card.zeros(&[tokens, width], DType::F32)?;
    let pairs = tokens * width.div_ceil(2);
    let args = [
        Arg::In(x),
        Arg::Out(&y),
        Arg::In(&key),
        Arg::U64(mask.stream),
        Arg::U64(pairs as u64),
        Arg::size(width)?,
        Arg::U32(mask.dropped),
        Arg::F32(mask.kept()),
    ];
    card.launch("dropout", blocks(pairs), &args)?;
    Ok(y)
}
