//! Matrix products, by candle: cuBLAS on a card, in bf16 where the weight is bf16.

use candle_core::{DType, Tensor};

use super::launch::refuse_unless;
use crate::Result;

/// `lhs · rhs`, both either contiguous matrices or transposed ones, or a batch of either.
///
/// candle's CPU product takes any layout; asking for what cuBLAS takes everywhere lets tests on the CPU speak for it.
pub(super) fn product(lhs: &Tensor, rhs: &Tensor) -> Result<Tensor> {
    for side in [lhs, rhs] {
        let (dims, stride) = (side.dims(), side.stride());
        let rank = dims.len();
        let (rows, columns) = (dims[rank - 2], dims[rank - 1]);
        let lies = [stride[rank - 2], stride[rank - 1]];
        let plain = (rows == 1 || lies[0] == columns) && (columns == 1 || lies[1] == 1);
        let transposed = (rows == 1 || lies[0] == 1) && (columns == 1 || lies[1] == rows);
        refuse_unless(rank <= 3 && (plain || transposed), || {
            format!("a matrix {dims:?} with strides {stride:?} in a product")
        })?;
    }
    Ok(lhs.matmul(rhs)?)
}

/// `x · w`, rounded to bf16 before and after where `w` is bf16.
fn by_weight(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    match w.dtype() {
        DType::BF16 => Ok(product(&x.to_dtype(DType::BF16)?, w)?.to_dtype(DType::F32)?),
        _ => product(x, w),
    }
}

pub(super) fn project(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    by_weight(x, &w.t()?)
}

pub(super) fn project_dx(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    by_weight(dy, w)
}

pub(super) fn project_dw(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    product(&dy.contiguous()?.t()?, x)
}

pub(super) fn project_into(y: &Tensor, from: usize, x: &Tensor, w: &Tensor) -> Result<()> {
    Ok(y.slice_set(&project(x, w)?, 1, from)?)
}
