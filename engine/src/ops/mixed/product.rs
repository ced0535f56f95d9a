//! Products of bf16 matrices with f32 sums (after BLIS: Van Zee and van de Geijn, 2015).
//!
//! ```text
//!   out [m, n]  =  Σ  left [m, k] · right [k, n]        right is packed task by task, left is read where it is
//! ```
//!
//! The result is cut into rectangles, one for each task, which lays out those columns of the right factor that it needs
//! in its core's second cache, multiplies, and forgets them: no task waits for another. Every number of the result is
//! one sum in one order, however it is cut. What is held packed is unpacked before, for all tasks, chunk by chunk.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use fleetune_shared::CHUNK_NUMBERS;
use half::bf16;
use rayon::prelude::*;

use super::kernel::{COLUMNS, LeftRows, ROWS, Shared, Work};
use super::panels::{Panels, room};
use crate::Result;
use crate::ops::number::Number;
use crate::quant::Packed;

/// Numbers of the right factor that stay in a core's second cache (1 MiB) beside what else is read.
const NEAR_NUMBERS: usize = 1 << 19;

/// `[m, k]`, rows of bf16.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) numbers: &'a [bf16],
    /// Numbers of a row, which is a multiple of two.
    pub(super) depth: usize,
}

impl<'a> Left<'a> {
    /// Those from `row` on, and of each the numbers `depths`.
    fn rows(self, row: usize, depths: Range<usize>) -> LeftRows<'a> {
        let numbers = &self.numbers[row * self.depth + depths.start..];
        LeftRows { numbers, stride: self.depth, pairs: depths.len() / 2 }
    }
}

/// A matrix in any form; a packed one has to be unpacked.
#[derive(Clone, Copy)]
pub(super) enum Matrix<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    Packed(&'a dyn Packed),
}

/// `[k, n]`.
#[derive(Clone, Copy)]
pub(super) enum Right<M> {
    /// Given as it is: `k` rows of `n`.
    Rows(M),
    /// Given transposed: `n` rows of `k`.
    Columns(M),
}

/// Buffers that products share.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    unpacked: Vec<bf16>,
    /// Those that no task has.
    panels: Mutex<Vec<[Panels; 2]>>,
}

/// Writes `main`'s product into `out`, rows of `columns` numbers, or adds it to what is there; with it goes that of
/// `low`, whose right factor is small, f32 and given by rows, fewer of them where the left factor ends in zeros.
pub(super) fn multiply<N: Number>(
    scratch: &mut Scratch,
    out: &mut [N],
    columns: usize,
    main: (Left<'_>, Right<Matrix<'_>>),
    low: Option<(Left<'_>, &[f32])>,
    add: bool,
) -> Result<()> {
    let depth = main.0.depth;
    let rows = out.len() / columns.max(1);
    let (mut band, mut slice) = (columns, depth);
    match main.1 {
        Right::Columns(Matrix::Packed(_)) => {
            band = (CHUNK_NUMBERS / depth.max(1)).next_multiple_of(COLUMNS).min(columns);
        }
        // Panels of all of a head's depth would stay in no cache, and what is packed would be unpacked whole. Sums can be
        // taken up again only where they are kept in f32.
        Right::Rows(_) if N::DTYPE == candle_core::DType::F32 => {
            slice = whole(CHUNK_NUMBERS / columns.max(1)).min(depth);
        }
        _ => {}
    }
    let Scratch { unpacked, panels } = scratch;
    let out = Shared::of(out, columns);
    for first in (0..columns).step_by(band.max(1)) {
        let here = first..columns.min(first + band);
        for at in (0..depth).step_by(slice.max(1)) {
            let deep = slice.min(depth - at);
            let right = match main.1 {
                Right::Rows(matrix) => {
                    let (from, count) = (at * columns, deep * columns);
                    Right::Rows(plain(matrix, unpacked, from, count, columns)?)
                }
                Right::Columns(matrix) => {
                    let (from, count) = (first * depth, here.len() * depth);
                    Right::Columns(plain(matrix, unpacked, from, count, depth)?)
                }
            };
            let product = Product {
                left: main.0,
                depths: at..at + deep,
                right,
                columns: here.clone(),
                low: low.filter(|_| at + deep == depth),
                add: add || at > 0,
            };
            product.share(rows, &out, panels);
        }
    }
    Ok(())
}

/// So much depth, in steps that every kernel takes whole.
fn whole(depth: usize) -> usize {
    const STEP: usize = 32;
    (depth / STEP * STEP).max(STEP)
}

/// Some columns of a product and some of its depth, all of its rows.
struct Product<'a> {
    left: Left<'a>,
    depths: Range<usize>,
    /// What is needed of it here.
    right: Right<Plain<'a>>,
    columns: Range<usize>,
    low: Option<(Left<'a>, &'a [f32])>,
    add: bool,
}

impl Product<'_> {
    fn share<N: Number>(&self, rows: usize, out: &Shared<'_, N>, panels: &Mutex<Vec<[Panels; 2]>>) {
        let (height, width) = cut(rows, self.depths.len(), self.columns.len());
        let (down, across) = (rows.div_ceil(height), self.columns.len().div_ceil(width));
        (0..down * across).into_par_iter().with_max_len(1).for_each(|task| {
            let (row, column) = (task % down * height, self.columns.start + task / down * width);
            let rows = row..rows.min(row + height);
            let columns = column..self.columns.end.min(column + width);
            let idle = || panels.lock().unwrap_or_else(PoisonError::into_inner);
            let mut buffer = idle().pop().unwrap_or_default();
            self.multiply(rows, columns, out, &mut buffer);
            idle().push(buffer);
        });
    }

    /// One task: each few rows of the left factor, which stay in the first cache, meet all of the panels.
    fn multiply<N: Number>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &Shared<'_, N>,
        [panels, low_panels]: &mut [Panels; 2],
    ) {
        let (here, deep) = (columns.len(), self.depths.len());
        // Of rows, or of a transposed factor's columns, those of this task.
        let first = columns.start - self.columns.start;
        match self.right {
            Right::Rows(Plain::F32(w)) => panels.take_rows(w, (out.columns(), deep), &columns),
            Right::Rows(Plain::Bf16(w)) => panels.take_rows(w, (out.columns(), deep), &columns),
            Right::Columns(Plain::F32(w)) => {
                panels.take_columns(part(w, first * deep, here * deep), deep);
            }
            Right::Columns(Plain::Bf16(w)) => {
                panels.take_columns(part(w, first * deep, here * deep), deep);
            }
        }
        if let Some((left, right)) = self.low {
            low_panels.take_rows(right, (out.columns(), left.depth), &columns);
        }
        let mut work = Work::begin();
        for row in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - row);
            let low = self.low.map(|(left, _)| left.rows(row, 0..left.depth));
            work.take(count, [Some(self.left.rows(row, self.depths.clone())), low]);
            for (index, column) in (0..here).step_by(COLUMNS).enumerate() {
                let (panel, filled) = panels.panel(index);
                let low_panel = if low.is_some() { low_panels.panel(index).0 } else { &[] };
                let width = COLUMNS.min(here - column);
                #[expect(unsafe_code, reason = "tasks write into one matrix")]
                // SAFETY: rectangles of tasks, and tiles of a task, have no place in common.
                let mut target =
                    unsafe { out.part((row, count), (columns.start + column, width), self.add) };
                work.tile(filled, [panel, low_panel], &mut target);
            }
        }
    }
}

/// How tall and how wide a task's rectangle is: of those whose panels stay near, the one that should be done first.
///
/// A panel's part in the time of a row's depth counts for what laying it out takes, a tile's rows for what reading them
/// takes, both beside what a tile of products takes; measured, roughly.
fn cut(rows: usize, depth: usize, columns: usize) -> (usize, usize) {
    const MULTIPLY: usize = 8;
    const LAY: usize = 40;
    const READ: usize = 8;
    let (tiles, panels) = (rows.div_ceil(ROWS), columns.div_ceil(COLUMNS));
    let near = (NEAR_NUMBERS / (COLUMNS * depth).max(1)).clamp(1, panels.max(1));
    let threads = rayon::current_num_threads();
    let down = 1..=tiles.clamp(1, 2 * threads);
    let cuts = down.flat_map(|down| (1..=near).map(move |wide| (tiles.div_ceil(down), wide)));
    let time = |&(high, wide): &(usize, usize)| {
        let tasks = tiles.div_ceil(high) * panels.div_ceil(wide);
        tasks.div_ceil(threads) * (high * wide * MULTIPLY + wide * LAY + high * READ)
    };
    let (high, wide) = cuts.min_by_key(time).unwrap_or((1, 1));
    (high * ROWS, wide * COLUMNS)
}

/// So many numbers from there on, or fewer where an odd last row lacks its pair.
fn part<N>(all: &[N], from: usize, count: usize) -> &[N] {
    &all[from..(from + count).min(all.len())]
}

#[derive(Clone, Copy)]
enum Plain<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Numbers `from..from + count` of a matrix with rows of `width`, unpacked into `buffer` where they are packed.
fn plain<'a>(
    matrix: Matrix<'a>,
    buffer: &'a mut Vec<bf16>,
    from: usize,
    count: usize,
    width: usize,
) -> Result<Plain<'a>> {
    Ok(match matrix {
        Matrix::F32(all) => Plain::F32(part(all, from, count)),
        Matrix::Bf16(all) => Plain::Bf16(part(all, from, count)),
        Matrix::Packed(packed) => {
            let buffer = room(buffer, count);
            let task = width * (1usize << 13).div_ceil(width.max(1));
            buffer
                .par_chunks_mut(task)
                .enumerate()
                .try_for_each(|(index, to)| packed.unpack_bf16(from + index * task, to))?;
            Plain::Bf16(buffer)
        }
    })
}
