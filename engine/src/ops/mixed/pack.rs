//! The right factor of a product laid out as the kernel reads it: panels of [`COLUMNS`] columns, in each one after the
//! other the pairs of all columns, the last panel cut to whole registers.

use half::bf16;
use rayon::prelude::*;

use super::kernel::{COLUMNS, LANES};
use crate::ops::number::Number;
use crate::ops::slices::written;
use crate::ops::wide::wide;

/// Columns of `columns` when filled up to whole registers.
pub(super) fn filled(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// Room for `columns` columns of `depth` numbers each.
pub(super) fn room(columns: usize, depth: usize) -> usize {
    filled(columns) * depth.next_multiple_of(2)
}

/// Where panel `index` begins, and how many columns it is filled to.
pub(super) fn panel(columns: usize, depth: usize, index: usize) -> (usize, usize) {
    let from = index * COLUMNS;
    (from * depth.next_multiple_of(2), filled(columns - from).min(COLUMNS))
}

/// Packs `wᵀ`, of which rows of `depth` numbers are given: each becomes a column.
pub(super) fn columns<N: Number>(panels: &mut [bf16], w: &[N], depth: usize) {
    let size = COLUMNS * depth.next_multiple_of(2);
    let panels = panels.par_chunks_mut(size).zip(w.par_chunks(COLUMNS * depth));
    panels.for_each(|(panel, w)| columns_of_panel(panel, w, depth));
}

wide! {
    fn columns_of_panel[N: Number](panel: &mut [bf16], w: &[N], depth: usize) {
        let width = filled(w.len() / depth);
        let mut rows = [[bf16::ZERO; 32]; LANES];
        // Sixteen rows at a time, sixteen pairs of each at a time.
        for (register, w) in w.chunks(LANES * depth).enumerate() {
            for from in (0..depth).step_by(32) {
                let here = 32.min(depth - from);
                for (row, w) in rows.iter_mut().zip(w.chunks_exact(depth)) {
                    for (to, from) in row.iter_mut().zip(&w[from..from + here]) {
                        *to = bf16::narrow(from.widen());
                    }
                    row[here..].fill(bf16::ZERO);
                }
                let given = w.len() / depth;
                rows[given..].fill([bf16::ZERO; 32]);
                let panel = &mut panel[2 * (from / 2 * width + register * LANES)..];
                for (pair, to) in panel.chunks_mut(2 * width).take(here.div_ceil(2)).enumerate() {
                    for (to, row) in to.chunks_exact_mut(2).zip(&rows) {
                        to.copy_from_slice(&row[2 * pair..2 * pair + 2]);
                    }
                }
            }
        }
    }
}

/// Packs columns `first..first + here` of `w` itself, rows of `stride` numbers.
pub(super) fn rows<N: Number>(
    panels: &mut [bf16],
    w: &[N],
    stride: usize,
    (first, here): (usize, usize),
) {
    let depth = w.len() / stride;
    let size = COLUMNS * depth.next_multiple_of(2);
    panels.par_chunks_mut(size).enumerate().for_each(|(index, panel)| {
        let from = index * COLUMNS;
        rows_of_panel(panel, w, stride, first + from, COLUMNS.min(here - from));
    });
}

wide! {
    fn rows_of_panel[N: Number](
        panel: &mut [bf16],
        w: &[N],
        columns: usize,
        from: usize,
        width: usize,
    ) {
        let pairs = w.chunks(2 * columns).zip(panel.chunks_exact_mut(2 * filled(width)));
        for (two, to) in pairs {
            let (one, other) = two.split_at(columns);
            let one = &one[from..from + width];
            let (to, _) = to.as_chunks_mut();
            if other.is_empty() {
                for (to, one) in to.iter_mut().zip(one) {
                    *to = [bf16::narrow(one.widen()), bf16::ZERO];
                }
            } else {
                for ((to, one), other) in to.iter_mut().zip(one).zip(&other[from..from + width]) {
                    *to = [bf16::narrow(one.widen()), bf16::narrow(other.widen())];
                }
            }
            to[width..].fill([bf16::ZERO; 2]);
        }
    }
}

/// `xᵀ`: `[rows, columns]` becomes `[columns, rows]`, in tiles that fit the nearest cache.
pub(super) fn transposed<N: Number>(x: &[N], columns: usize) -> Vec<N> {
    const TILE: usize = 32;
    let rows = x.len() / columns.max(1);
    let write = |out: &mut [N]| {
        out.par_chunks_mut(TILE * rows.max(1)).enumerate().for_each(|(band, out)| {
            let first = band * TILE;
            for from in (0..rows).step_by(TILE) {
                let to = (from + TILE).min(rows);
                for (i, out) in out.chunks_exact_mut(rows).enumerate() {
                    for (row, out) in (from..to).zip(&mut out[from..to]) {
                        *out = x[row * columns + first + i];
                    }
                }
            }
        });
    };
    written(x.len(), write).0
}
