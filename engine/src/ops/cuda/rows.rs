//! Operations on whole rows: sums, gathers, factors.

use candle_core::{DType, Tensor};

use super::launch::{Arg, Card, WARP, blocks, ids_within, wants};
use crate::Result;

pub(super) fn add(card: &dyn Card, sum: &Tensor, term: &Tensor) -> Result<()> {
    wants(sum, term.dims())?;
    wants(term, term.dims())?;
    let count = sum.elem_count();
    let args = [Arg::Out(sum), Arg::In(term), Arg::U64(count as u64)];
    card.launch("add", blocks(count), &args)
}

/// `add_bias` or `scale_columns`: something with each row of `y`.
pub(super) fn by_columns(
    card: &dyn Card,
    kernel: &'static str,
    y: &Tensor,
    numbers: &Tensor,
) -> Result<()> {
    let (tokens, width) = y.dims2()?;
    let numbers = numbers.flatten_all()?;
    wants(y, &[tokens, width])?;
    wants(&numbers, &[width])?;
    let count = tokens * width;
    let args = [Arg::Out(y), Arg::In(&numbers), Arg::U64(count as u64), Arg::size(width)?];
    card.launch(kernel, blocks(count), &args)
}

pub(super) fn sum(card: &dyn Card, dy: &Tensor) -> Result<Tensor> {
    over_rows(card, "sum_rows", &[dy], dy.dims2()?)
}

pub(super) fn dot(card: &dyn Card, dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    over_rows(card, "dot_rows", &[dy, y], dy.dims2()?)
}

/// A kernel that sums over the rows of matrices into one row.
fn over_rows(
    card: &dyn Card,
    kernel: &'static str,
    matrices: &[&Tensor],
    (rows, width): (usize, usize),
) -> Result<Tensor> {
    let sums = card.zeros(&[width], DType::F32)?;
    let mut args = Vec::new();
    for matrix in matrices {
        wants(matrix, &[rows, width])?;
        args.push(Arg::In(matrix));
    }
    args.extend([Arg::Out(&sums), Arg::size(rows)?, Arg::size(width)?]);
    card.launch(kernel, width.div_ceil(WARP), &args)?;
    Ok(sums)
}

pub(super) fn gather(card: &dyn Card, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (rows, width) = table.dims2()?;
    let halved = table.dtype() == DType::BF16 && table.is_contiguous();
    if !halved {
        wants(table, &[rows, width])?;
    }
    ids_within(ids, ids.len(), rows)?;
    let out = card.zeros(&[ids.len(), width], DType::F32)?;
    let on_card = card.upload(ids)?;
    let args = [Arg::In(table), Arg::In(&on_card), Arg::Out(&out), Arg::size(width)?];
    card.launch(if halved { "gather_bf16" } else { "gather" }, ids.len(), &args)?;
    Ok(out)
}

pub(super) fn scatter_add(
    card: &dyn Card,
    dtable: &Tensor,
    ids: &[u32],
    dy: &Tensor,
) -> Result<()> {
    let (rows, width) = dtable.dims2()?;
    wants(dtable, &[rows, width])?;
    wants(dy, &[ids.len(), width])?;
    ids_within(ids, ids.len(), rows)?;
    let on_card = card.upload(ids)?;
    let args = [
        Arg::Out(dtable),
        Arg::In(&on_card),
        Arg::In(dy),
        Arg::size(ids.len())?,
        Arg::size(width)?,
    ];
    card.launch("scatter_add", ids.len(), &args)
}
