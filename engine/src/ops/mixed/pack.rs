//! The right factor of a product laid out as the kernel reads it: panels of [`COLUMNS`] columns, in each one after the
//! other the pairs of all columns, the last panel cut to whole registers.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::kernel::{COLUMNS, LANES};
use super::turn::{SIDE, turn, unweave, weave};
use crate::ops::number::Number;
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
    let panels = panels.chunks_mut(size).zip(w.chunks(COLUMNS * depth));
    panels.for_each(|(panel, w)| columns_of_panel(panel, w, depth));
}

/// Sixteen rows at a time, sixteen pairs of each at a time.
fn columns_of_panel<N: Number>(panel: &mut [bf16], w: &[N], depth: usize) {
    let width = filled(w.len() / depth);
    for (register, rows) in w.chunks(LANES * depth).enumerate() {
        let later = w.get((register + 1) * LANES * depth..).unwrap_or_default();
        for from in (0..depth).step_by(2 * SIDE) {
            let here = (2 * SIDE).min(depth - from);
            let mut square = [[0; SIDE]; SIDE];
            for (index, (words, row)) in square.iter_mut().zip(rows.chunks_exact(depth)).enumerate()
            {
                words_of(words, &row[from..from + here]);
                fetch(later, index * depth + from);
            }
            turn(&mut square);
            let panel = &mut panel[2 * (from / 2 * width + register * LANES)..];
            let pairs = panel.chunks_mut(2 * width).take(here.div_ceil(2));
            pairs.zip(&square).for_each(|(to, words)| unweave(to, words));
        }
    }
}

/// Has number `at` brought near, if there is one: rows side by side are more than processors foresee.
#[inline(always)]
fn fetch<N>(numbers: &[N], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(number) = numbers.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "the instruction has no safe form")]
        // SAFETY: it reads nothing.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(number).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (numbers, at);
}

wide! {
    /// A row's numbers, rounded, as words; those that lack a number get a zero.
    fn words_of[N: Number](words: &mut [u32; SIDE], row: &[N]) {
        let bits = |x: N| u32::from(x.rounded().to_bits());
        // Of a length that is known: two registers, no loop.
        if let Ok(row) = <&[N; 2 * SIDE]>::try_from(row) {
            for (word, [low, high]) in words.iter_mut().zip(row.as_chunks().0) {
                *word = bits(*low) | bits(*high) << 16;
            }
            return;
        }
        for (word, two) in words.iter_mut().zip(row.chunks(2)) {
            *word = bits(two[0]) | two.get(1).map_or(0, |high| bits(*high) << 16);
        }
    }
}

/// Packs some columns of `w` itself, rows of `stride` numbers, and below them as many of zeros as make
/// `depth` of them.
pub(super) fn rows<N: Number>(
    panels: &mut [bf16],
    w: &[N],
    (stride, depth): (usize, usize),
    columns: &Range<usize>,
) {
    let size = COLUMNS * depth.next_multiple_of(2);
    for (panel, from) in panels.chunks_mut(size).zip(columns.clone().step_by(COLUMNS)) {
        rows_of_panel(panel, w, stride, from, COLUMNS.min(columns.end - from));
    }
}

wide! {
    fn rows_of_panel[N: Number](
        panel: &mut [bf16],
        w: &[N],
        columns: usize,
        from: usize,
        width: usize,
    ) {
        let (given, zeros) = panel.split_at_mut((w.len() / columns).div_ceil(2) * 2 * filled(width));
        zeros.fill(bf16::ZERO);
        for (two, to) in w.chunks(2 * columns).zip(given.chunks_exact_mut(2 * filled(width))) {
            let (one, other) = two.split_at(columns);
            let one = &one[from..from + width];
            let (to, _) = to.as_chunks_mut();
            if other.is_empty() {
                for (to, one) in to.iter_mut().zip(one) {
                    *to = [one.rounded(), bf16::ZERO];
                }
            } else {
                for ((to, one), other) in to.iter_mut().zip(one).zip(&other[from..from + width]) {
                    *to = [one.rounded(), other.rounded()];
                }
            }
            to[width..].fill([bf16::ZERO; 2]);
        }
    }
}

/// Columns `columns` of `x`, rows of `stride` numbers, as rows of `depth` in `out`; where `x` has fewer rows, zeros
/// follow. Squares that fit into registers go one after the other along the rows that are written.
pub(super) fn transposed(
    out: &mut [bf16],
    x: &[bf16],
    (stride, columns): (usize, Range<usize>),
    depth: usize,
) {
    let rows = x.len() / stride.max(1);
    out.par_chunks_mut(SIDE * depth.max(1)).enumerate().for_each(|(band, out)| {
        let first = columns.start + band * SIDE;
        let width = SIDE.min(columns.end - first);
        for from in (0..depth).step_by(2 * SIDE) {
            let here = (2 * SIDE).min(depth - from);
            let mut square = [[0; SIDE]; SIDE];
            for (pair, words) in square.iter_mut().take(here.div_ceil(2)).enumerate() {
                let row = |t: usize| (t < rows).then(|| &x[t * stride + first..][..width]);
                let two = [from + 2 * pair, from + 2 * pair + 1].map(row);
                match two.map(|row| row.and_then(|row| row.try_into().ok())) {
                    [Some(upper), Some(lower)] => weave(words, upper, lower),
                    _ => {
                        let filled = two.map(|row| {
                            let mut numbers = [bf16::ZERO; SIDE];
                            let row = row.unwrap_or_default();
                            numbers[..row.len()].copy_from_slice(row);
                            numbers
                        });
                        weave(words, &filled[0], &filled[1]);
                    }
                }
            }
            turn(&mut square);
            for (out, words) in out.chunks_exact_mut(depth).zip(&square) {
                unweave(&mut out[from..from + here], words);
            }
        }
    });
}

/// `width` numbers from each of the places on, one after the other.
pub(super) fn pick(all: &[bf16], width: usize, places: impl Iterator<Item = usize>) -> Vec<bf16> {
    let mut picked = Vec::with_capacity(places.size_hint().0 * width);
    places.for_each(|at| picked.extend_from_slice(&all[at..at + width]));
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<bf16> {
        (0..count).map(|i| bf16::narrow((i * i % 251) as f32)).collect()
    }

    #[test]
    fn columns_become_rows() {
        for (rows, depth, stride, columns) in
            [(64, 64, 40, 0..32), (33, 34, 20, 3..20), (1, 2, 5, 0..5), (70, 70, 17, 0..17)]
        {
            let x = numbers(rows * stride);
            let mut out = vec![bf16::ONE; columns.len() * depth];
            transposed(&mut out, &x, (stride, columns.clone()), depth);
            for (i, out) in out.chunks_exact(depth).enumerate() {
                for (t, found) in out.iter().enumerate() {
                    let column = columns.start + i;
                    let expected = x.get(t * stride + column).copied().unwrap_or(bf16::ZERO);
                    assert_eq!(*found, expected, "{rows} {depth}: {i} {t}");
                }
            }
        }
    }

    #[test]
    fn panels_are_pairs_of_columns() {
        for (outs, depth) in [(48, 64), (50, 33), (100, 7), (1, 1), (16, 96)] {
            let w = numbers(outs * depth);
            let mut panels = vec![bf16::ONE; room(outs, depth)];
            columns(&mut panels, &w, depth);
            for column in 0..filled(outs) {
                let (begin, width) = panel(outs, depth, column / COLUMNS);
                for t in 0..depth.next_multiple_of(2) {
                    let at = begin + (t / 2 * width + column % COLUMNS) * 2 + t % 2;
                    let there = column < outs && t < depth;
                    let expected = if there { w[column * depth + t] } else { bf16::ZERO };
                    assert_eq!(panels[at], expected, "{outs} {depth}: {column} {t}");
                }
            }
        }
    }
}
