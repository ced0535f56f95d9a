//! Products of bf16 matrices with f32 sums (after BLIS: Van Zee and van de Geijn, 2015).
//!
//! ```text
//!   out [m, n]  =  Σ  left [m, k] · right [k, n]        right is packed chunk by chunk, left is read where it is
//! ```
//!
//! A chunk of the right factor is unpacked, laid out in panels once for all rows, multiplied, and forgotten. Every
//! number of the result is one sum in one order, however many threads share the rows.

use fleetune_shared::CHUNK_NUMBERS;
use half::bf16;
use rayon::prelude::*;

use super::kernel::{COLUMNS, LeftRows, ROWS, Target, Work};
use super::pack;
use crate::Result;
use crate::ops::number::Number;
use crate::quant::Packed;

/// Rows one task multiplies with a chunk at most.
const BAND: usize = 8 * ROWS;
/// Numbers of the right factor that stay in a core's second cache (1 MiB) beside what else is read.
const NEAR_NUMBERS: usize = 1 << 19;

/// `[m, k]`, rows of bf16.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) numbers: &'a [bf16],
    /// Numbers of a row, which is a multiple of two.
    pub(super) depth: usize,
}

/// A matrix in any form.
#[derive(Clone, Copy)]
pub(super) enum Matrix<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    Packed(&'a dyn Packed),
}

/// `[k, n]`.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// Given as it is: `k` rows of `n`.
    Rows(Matrix<'a>),
    /// Given transposed: `n` rows of `k`.
    Columns(Matrix<'a>),
}

/// Buffers that products share.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    panels: [Vec<bf16>; 2],
    unpacked: Vec<bf16>,
}

/// Writes `main`'s product into `out`, rows of `columns` numbers, or adds it to what is there; with it goes that of
/// `low`, whose right factor is small, f32 and given by rows.
pub(super) fn multiply<N: Number>(
    scratch: &mut Scratch,
    out: &mut [N],
    columns: usize,
    main: (Left<'_>, Right<'_>),
    low: Option<(Left<'_>, &[f32])>,
    add: bool,
) -> Result<()> {
    let Scratch { panels, unpacked } = scratch;
    let depth = main.0.depth;
    // Sums can be taken up again only where they are kept in f32; a transposed matrix is cut by columns instead.
    let exact = N::DTYPE == candle_core::DType::F32;
    let cut_depth = exact && matches!(main.1, Right::Rows(_));
    let slice = if cut_depth { whole(CHUNK_NUMBERS / columns.max(1)).min(depth) } else { depth };
    let band = if matches!(main.1, Right::Columns(_)) {
        (CHUNK_NUMBERS / depth.max(1)).next_multiple_of(COLUMNS).min(columns)
    } else {
        columns
    };
    let rows = out.len() / columns.max(1);
    let height = rows.div_ceil(rayon::current_num_threads()).next_multiple_of(ROWS).min(BAND);
    for first in (0..columns).step_by(band.max(1)) {
        let here = band.min(columns - first);
        for at in (0..depth).step_by(slice.max(1)) {
            let deep = slice.min(depth - at);
            let last = at + deep == depth;
            let [panels, low_panels] = &mut *panels;
            let panels = room(panels, pack::room(here, deep));
            lay(panels, unpacked, main.1, (at, deep), (first, here), depth)?;
            let low_panels = match low.filter(|_| last) {
                None => &[][..],
                Some((left, right)) => {
                    let panels = room(low_panels, pack::room(here, left.depth));
                    pack::rows(panels, right, columns, (first, here));
                    panels
                }
            };
            let low = low.as_ref().filter(|_| last).map(|(left, _)| (left, 0, left.depth));
            let panels = [&*panels, low_panels];
            out.par_chunks_mut(height * columns).enumerate().for_each(|(index, out)| {
                let lefts = [Some((&main.0, at, deep)), low];
                band_of(out, (first, here, columns), index * height, lefts, panels, add || at > 0);
            });
        }
    }
    Ok(())
}

/// So much depth, in steps that every kernel takes whole.
fn whole(depth: usize) -> usize {
    const STEP: usize = 32;
    (depth / STEP * STEP).max(STEP)
}

/// One task: some rows of the result, and the columns of one chunk. Panels are taken in groups that stay in the second
/// cache, and each few rows of the left factor, which stay in the first, meet all of a group.
fn band_of<'a, N: Number>(
    out: &mut [N],
    (first, here, columns): (usize, usize, usize),
    row: usize,
    lefts: [Option<(&Left<'a>, usize, usize)>; 2],
    panels: [&[bf16]; 2],
    add: bool,
) {
    let rows = out.len() / columns;
    let deep: usize = lefts.iter().flatten().map(|(_, _, deep)| deep).sum();
    let group = (NEAR_NUMBERS / deep.max(1)).max(COLUMNS) / COLUMNS * COLUMNS;
    let mut work = Work::begin();
    for group in (0..here).step_by(group).map(|from| from..here.min(from + group)) {
        for from in (0..rows).step_by(ROWS) {
            let rows_of = |left: Option<(&Left<'a>, usize, usize)>| {
                let (left, at, deep) = left?;
                let numbers = &left.numbers[(row + from) * left.depth + at..];
                Some(LeftRows { numbers, stride: left.depth, pairs: deep / 2 })
            };
            work.take(ROWS.min(rows - from), lefts.map(rows_of));
            for column in group.clone().step_by(COLUMNS) {
                let panel = |which: usize| {
                    let deep = lefts[which].map_or(0, |(_, _, deep)| deep);
                    let (begin, filled) = pack::panel(here, deep, column / COLUMNS);
                    &panels[which][begin.min(panels[which].len())..][..filled * deep]
                };
                let out = &mut out[from * columns + first + column..];
                let width = COLUMNS.min(here - column);
                let mut target = Target { out, stride: columns, columns: width, add };
                let (_, filled) = pack::panel(here, 0, column / COLUMNS);
                work.tile(filled, [panel(0), panel(1)], &mut target);
            }
        }
    }
}

/// Packs rows `at..at + deep` and columns `first..first + here` of a factor of `depth` rows.
fn lay(
    panels: &mut [bf16],
    buffer: &mut Vec<bf16>,
    right: Right<'_>,
    (at, deep): (usize, usize),
    (first, here): (usize, usize),
    depth: usize,
) -> Result<()> {
    match right {
        Right::Rows(matrix) => match unpacked(matrix, buffer, at * here, deep * here, here)? {
            Plain::F32(w) => pack::rows(panels, w, here, (0, here)),
            Plain::Bf16(w) => pack::rows(panels, w, here, (0, here)),
        },
        Right::Columns(matrix) => {
            match unpacked(matrix, buffer, first * depth, here * depth, depth)? {
                Plain::F32(w) => pack::columns(panels, w, depth),
                Plain::Bf16(w) => pack::columns(panels, w, depth),
            }
        }
    }
    Ok(())
}

/// So many numbers from there on, or fewer where an odd last row lacks its pair.
fn part<N>(all: &[N], from: usize, count: usize) -> &[N] {
    &all[from..(from + count).min(all.len())]
}

/// Room for `count` numbers, whatever they are now; a buffer that is too small is replaced by one that has room for no
/// more.
fn room(buffer: &mut Vec<bf16>, count: usize) -> &mut [bf16] {
    if buffer.len() < count {
        *buffer = vec![bf16::ZERO; count];
    }
    &mut buffer[..count]
}

enum Plain<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Numbers `from..from + count` of a matrix with rows of `width`, unpacked into `buffer` where they are packed.
fn unpacked<'a>(
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
            if let Some(all) = packed.as_bf16() {
                return Ok(Plain::Bf16(&all[from..from + count]));
            }
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
