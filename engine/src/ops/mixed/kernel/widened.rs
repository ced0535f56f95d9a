//! Rows of left factors as f32, for kernels that multiply those.
//!
//! They are widened once for all tiles beside each other, and laid out in the order they are read: rows as far apart as
//! they are in a matrix would fall on each other in the first cache.

use std::arch::x86_64::{
    __m128d, __m256d, __m256i, _mm_loadu_si128, _mm_storeu_pd, _mm256_castpd256_pd128,
    _mm256_castsi256_pd, _mm256_cvtepu16_epi32, _mm256_extractf128_pd, _mm256_slli_epi32,
    _mm256_unpackhi_pd, _mm256_unpacklo_pd, _mm512_castsi512_si256, _mm512_cvtepu16_epi32,
    _mm512_extracti64x4_epi64, _mm512_maskz_loadu_epi32, _mm512_permutex2var_epi64,
    _mm512_setr_epi64, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::cell::Cell;

use half::bf16;

use super::{LANES, LeftRows, Strip};
use crate::ops::number::Number;
use crate::ops::slices::widen;

/// As many rows as a kernel takes that has AVX-512, and no other.
pub(super) const EIGHT: usize = 8;

/// Pairs of the depth that are taken at a time: rows and columns of so many stay in the first cache (32 KiB).
const PAIRS: usize = 128;

/// How many of so many rows a kernel multiplies next.
pub(super) type Height = fn(usize) -> usize;

/// Where each part of the depth begins, and how many pairs it has.
fn parts(pairs: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..pairs).step_by(PAIRS).map(move |from| (from, PAIRS.min(pairs - from)))
}

/// Where each block of rows that are multiplied together begins, and how many it has.
pub(super) fn blocks(rows: usize, height: Height) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let count = (from < rows).then(|| height(rows - from))?;
        from += count;
        Some((from - count, count))
    })
}

/// Strip after strip; in each, part after part of the depth; in each, block after block of rows; in each, pair after
/// pair of all its rows.
#[derive(Default)]
pub(super) struct Widened(Vec<f32>);

thread_local! {
    static KEPT: Cell<Widened> = Cell::default();
}

impl Widened {
    /// What an earlier one on this thread left room in.
    pub(super) fn again() -> Self {
        KEPT.take()
    }

    /// Leaves its room to the next.
    pub(super) fn keep(&mut self) {
        KEPT.set(std::mem::take(self));
    }

    /// Takes `rows` rows of each of `lefts`; only on a machine with AVX2.
    pub(super) fn take<'a>(
        &mut self,
        rows: usize,
        lefts: impl Iterator<Item = &'a LeftRows<'a>>,
        height: Height,
    ) {
        let mut end = 0;
        for left in lefts {
            let begin = end;
            end += 2 * left.pairs * rows;
            if self.0.len() < end {
                self.0.resize(end, 0.0);
            }
            // Each row is read from its beginning to its end.
            for (first, count) in blocks(rows, height) {
                for (from, pairs) in parts(left.pairs) {
                    let to = begin + 2 * (from * rows + first * pairs);
                    let to = &mut self.0[to..][..2 * count * pairs];
                    let row = |row: usize| {
                        &left.numbers[(first + row) * left.stride + 2 * from..][..2 * pairs]
                    };
                    if count == EIGHT {
                        widen_eight(to, std::array::from_fn(row));
                        continue;
                    }
                    for at in (0..count).step_by(2) {
                        if at + 1 < count {
                            widen_two(&mut to[2 * at..], 2 * count, [row(at), row(at + 1)]);
                        } else {
                            widen(to, row(at));
                        }
                    }
                }
            }
        }
    }

    /// Part after part of the depth of strips whose `rows` rows were taken: these rows, and the panel, of so many
    /// registers, from there on; how many pairs.
    pub(super) fn parts<'a>(
        &'a self,
        rows: usize,
        registers: usize,
        strips: &'a [Strip<'_>],
    ) -> impl Iterator<Item = (&'a [f32], &'a [bf16], usize)> {
        let mut left = &self.0[..];
        let panels = strips.iter().flat_map(move |strip| {
            let panel = move |from: usize| &strip.panel[2 * from * registers * LANES..];
            parts(strip.left.pairs).map(move |(from, pairs)| (panel(from), pairs))
        });
        panels.map(move |(panel, pairs)| {
            let (here, rest) = left.split_at(2 * pairs * rows);
            left = rest;
            (here, panel, pairs)
        })
    }
}

/// As [`widen`], eight rows at once: a pair of each side by side, a register of them after the other.
#[expect(unsafe_code, reason = "instructions that not every machine has")]
fn widen_eight(to: &mut [f32], rows: [&[bf16]; EIGHT]) {
    /// Numbers of a register.
    const WIDE: usize = 2 * EIGHT;
    #[target_feature(enable = "avx512f")]
    fn put(to: &mut [[f32; WIDE]], pair: usize, numbers: __m256i) {
        if let Some(to) = to.get_mut(pair) {
            let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(numbers));
            // SAFETY: a register's numbers.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), wide) }
        }
    }
    #[expect(
        clippy::needless_range_loop,
        reason = "counted loops become registers, iterators do not"
    )]
    #[target_feature(enable = "avx512f")]
    fn avx512(to: &mut [f32], rows: [&[bf16]; EIGHT]) {
        // Two 128-bit lanes of one register and two of another in turns.
        let lower = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let upper = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        for (part, to) in to.as_chunks_mut().0.chunks_mut(WIDE).enumerate() {
            let mask = u16::MAX >> (WIDE - to.len());
            let mut words = [_mm512_setzero_si512(); EIGHT];
            for i in 0..EIGHT {
                let row = &rows[i][2 * part * WIDE..][..2 * to.len()];
                // SAFETY: no more pairs are read than the row has.
                words[i] = unsafe { _mm512_maskz_loadu_epi32(mask, row.as_ptr().cast()) };
            }
            // Of four rows each, lane for lane: their pairs 0, 1, 2, 3.
            let mut fours = [[_mm512_setzero_si512(); 4]; 2];
            for i in 0..2 {
                let [a, b, c, d] =
                    [words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]];
                let (low, low_too) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
                let (high, high_too) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
                fours[i][0] = _mm512_unpacklo_epi64(low, low_too);
                fours[i][1] = _mm512_unpackhi_epi64(low, low_too);
                fours[i][2] = _mm512_unpacklo_epi64(high, high_too);
                fours[i][3] = _mm512_unpackhi_epi64(high, high_too);
            }
            for i in 0..4 {
                let first = _mm512_permutex2var_epi64(fours[0][i], lower, fours[1][i]);
                let second = _mm512_permutex2var_epi64(fours[0][i], upper, fours[1][i]);
                put(to, i, _mm512_castsi512_si256(first));
                put(to, i + 4, _mm512_extracti64x4_epi64::<1>(first));
                put(to, i + 8, _mm512_castsi512_si256(second));
                put(to, i + 12, _mm512_extracti64x4_epi64::<1>(second));
            }
        }
    }
    // SAFETY: only a machine that has them comes here.
    unsafe { avx512(to, rows) }
}

/// As [`widen`], two rows at once: a pair of each side by side, `stride` after the one before.
#[expect(unsafe_code, reason = "instructions that not every machine has")]
fn widen_two(to: &mut [f32], stride: usize, rows: [&[bf16]; 2]) {
    #[target_feature(enable = "avx2")]
    fn eight(row: &[bf16; 8]) -> __m256d {
        // SAFETY: eight numbers of 16 bits.
        let row = unsafe { _mm_loadu_si128(row.as_ptr().cast()) };
        _mm256_castsi256_pd(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(row)))
    }
    #[target_feature(enable = "avx2")]
    fn put(to: &mut [f32], two: __m128d) {
        assert!(to.len() >= 4);
        // SAFETY: four numbers of 32 bits.
        unsafe { _mm_storeu_pd(to.as_mut_ptr().cast(), two) }
    }
    #[target_feature(enable = "avx2")]
    fn avx2(to: &mut [f32], stride: usize, [first, second]: [&[bf16]; 2]) {
        let (a, b) = (first.as_chunks::<8>(), second.as_chunks::<8>());
        for (four, (a, b)) in a.0.iter().zip(b.0).enumerate() {
            let to = &mut to[4 * four * stride..][..3 * stride + 4];
            // Four pairs of each; a register's halves are shuffled apart.
            let (a, b) = (eight(a), eight(b));
            let (even, odd) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
            put(to, _mm256_castpd256_pd128(even));
            put(&mut to[stride..], _mm256_castpd256_pd128(odd));
            put(&mut to[2 * stride..], _mm256_extractf128_pd::<1>(even));
            put(&mut to[3 * stride..], _mm256_extractf128_pd::<1>(odd));
        }
        let rest = a.1.as_chunks::<2>().0.iter().zip(b.1.as_chunks::<2>().0);
        for (pair, (a, b)) in (4 * a.0.len()..).zip(rest) {
            let four = [a[0].widen(), a[1].widen(), b[0].widen(), b[1].widen()];
            to[pair * stride..][..4].copy_from_slice(&four);
        }
    }
    // SAFETY: only a machine that has them comes here.
    unsafe { avx2(to, stride, rows) }
}
