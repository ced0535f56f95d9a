//! Products of a few rows with a long factor, the gradients of LoRA's halves.
//!
//! Such a product takes less than packing its right factor for all of it does. So each task packs some columns of it,
//! slice by slice, and multiplies what is still in its nearest cache.

use half::bf16;
use rayon::prelude::*;

use super::kernel::{COLUMNS, ROWS};
use super::panels::{Panels, Rows};
use super::product::Left;

/// With more rows than this it is a product like others.
pub(super) const MOST_ROWS: usize = 4 * ROWS;

/// Columns of a task, whole cache lines.
const WIDE: usize = 4 * COLUMNS;
/// Rows of the right factor packed at a time, an even number.
const DEEP: usize = 256;

/// `left · right`, of which rows of `columns` numbers are given: one row after the other.
pub(super) fn outer(left: Left<'_>, right: &[bf16], columns: usize) -> Vec<f32> {
    let rows = left.numbers.len() / left.depth.max(1);
    let firsts: Vec<usize> = (0..columns).step_by(WIDE).collect();
    let blocks = firsts.par_iter().map_init(Panels::default, |panels, &first| {
        let width = WIDE.min(columns - first);
        let mut block = vec![0.0; rows * width];
        for (index, right) in right.chunks(DEEP * columns).enumerate() {
            let depth = (right.len() / columns).next_multiple_of(2);
            panels.take_rows(right, (columns, depth), &(first..first + width));
            let numbers = &left.numbers[index * DEEP..];
            let left = Rows { numbers, stride: left.depth, count: rows };
            panels.times(left, (0..width, 0..depth), (&mut block, width), index > 0);
        }
        block
    });
    let blocks: Vec<Vec<f32>> = blocks.collect();
    let mut out = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for block in &blocks {
            let width = block.len() / rows;
            out.extend_from_slice(&block[row * width..(row + 1) * width]);
        }
    }
    out
}
