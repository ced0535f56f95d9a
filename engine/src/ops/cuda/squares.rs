//! The length of gradients.

use candle_core::{DType, Tensor};

use super::launch::{Arg, Card, wants};
use crate::Result;

/// What a block sums, as `kernels/squares.cu` has it.
const STRETCH: usize = 1 << 15;

pub(super) fn sum(card: &dyn Card, x: &Tensor) -> Result<f64> {
    wants(x, x.dims())?;
    let count = x.elem_count();
    let blocks = count.div_ceil(STRETCH);
    let sums = card.zeros(&[blocks], DType::F64)?;
    card.launch("squares", blocks, &[Arg::In(x), Arg::Out(&sums), Arg::U64(count as u64)])?;
    Ok(sums.to_vec1::<f64>()?.iter().sum())
}
