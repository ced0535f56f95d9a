//! On processors with neither: bf16 is widened to f32, which is a shift, and multiplied as that, six rows at a time.
//!
//! The left factor's rows are widened once for all tiles beside each other, and laid out in the order they are read: rows
//! as far apart as they are in a matrix would fall on each other in the first cache. The panel's pairs are widened where
//! they are read. The depth is taken in parts whose rows and columns stay in that cache (32 KiB).

use std::arch::x86_64::{
    __m128d, __m256, __m256d, __m256i, _mm_loadu_si128, _mm_storeu_pd, _mm256_and_si256,
    _mm256_castpd256_pd128, _mm256_castsi256_pd, _mm256_castsi256_ps, _mm256_cvtepu16_epi32,
    _mm256_extractf128_pd, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_unpackhi_pd,
    _mm256_unpacklo_pd,
};

use half::bf16;

use super::{COLUMNS, LANES, LeftRows, ROWS, Strip, Sums};
use crate::ops::number::Number;
use crate::ops::slices::widen;

/// Numbers of one register, half of what [`LANES`] counts.
const HALF: usize = LANES / 2;
/// Pairs of the depth that are taken at a time.
const PAIRS: usize = 128;

/// Rows of left factors as f32, strip after strip; in each, part after part of the depth; in each, block after block of
/// rows; in each, pair after pair of all its rows.
#[derive(Default)]
pub(super) struct Widened(Vec<f32>);

impl Widened {
    /// Takes `rows` rows of each of `lefts`.
    pub(super) fn take<'a>(&mut self, rows: usize, lefts: impl Iterator<Item = &'a LeftRows<'a>>) {
        let mut end = 0;
        for left in lefts {
            let begin = end;
            end += 2 * left.pairs * rows;
            if self.0.len() < end {
                self.0.resize(end, 0.0);
            }
            for (from, pairs) in parts(left.pairs) {
                let to = &mut self.0[begin + 2 * from * rows..][..2 * pairs * rows];
                for (first, count) in blocks(rows) {
                    let to = &mut to[2 * first * pairs..][..2 * count * pairs];
                    let row = |row: usize| {
                        &left.numbers[(first + row) * left.stride + 2 * from..][..2 * pairs]
                    };
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
}

/// Where each part of the depth begins, and how many pairs it has.
fn parts(pairs: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..pairs).step_by(PAIRS).map(move |from| (from, PAIRS.min(pairs - from)))
}

/// Where each block of rows that are multiplied together begins, and how many it has: as many as registers hold, and no
/// fewer than keep them busy where that can be avoided.
fn blocks(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let count = match rows - from {
            0 => return None,
            8 => 4,
            6.. => 6,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        from += count;
        Some((from - count, count))
    })
}

/// Whether this machine has what [`sums`] needs.
pub(super) fn there() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Fills the first `rows` of `sums`; only where [`there`] holds, `left` has the strips' rows and their panels hold what is
/// asked.
pub(super) fn sums(
    rows: usize,
    registers: usize,
    strips: &[Strip<'_>],
    sums: &mut Sums,
    left: &Widened,
) {
    sums.0[..rows].iter_mut().for_each(|row| row.fill(0.0));
    let mut left = &left.0[..];
    for strip in strips {
        for (from, pairs) in parts(strip.left.pairs) {
            let panel = &strip.panel[2 * from * registers * LANES..];
            for register in 0..registers {
                add(rows, &Part { left, panel, pairs, registers, register }, &mut sums.0);
            }
            left = &left[2 * pairs * rows..];
        }
    }
}

/// A part of the depth and 16 columns.
struct Part<'a> {
    left: &'a [f32],
    panel: &'a [bf16],
    pairs: usize,
    /// Registers of [`LANES`] columns in the panel, and which of them.
    registers: usize,
    register: usize,
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

/// Adds the part's product to 16 columns of each row.
fn add(rows: usize, part: &Part<'_>, sums: &mut [[f32; COLUMNS]; ROWS]) {
    for (from, count) in blocks(rows) {
        match count {
            6 => block::<6>(from, part, sums),
            4 => block::<4>(from, part, sums),
            2 => block::<2>(from, part, sums),
            _ => block::<1>(from, part, sums),
        }
    }
}

/// As [`add`], of rows `from..from + M`.
#[expect(unsafe_code, reason = "instructions that not every machine has, on raw pointers")]
fn block<const M: usize>(from: usize, part: &Part<'_>, sums: &mut [[f32; COLUMNS]; ROWS]) {
    let (depth, width) = (2 * part.pairs, 2 * LANES * part.registers);
    let left = &part.left[from * depth..][..M * depth];
    let panel = &part.panel[2 * LANES * part.register..];
    assert!(part.pairs == 0 || panel.len() >= (part.pairs - 1) * width + 2 * LANES);
    let columns = LANES * part.register;
    assert!(columns + LANES <= COLUMNS && from + M <= ROWS);
    // SAFETY: only a machine that has the instructions comes here; rows, panel and sums reach that far, as was just
    // asserted.
    unsafe {
        let sums = sums.as_mut_ptr().add(from).cast::<f32>().add(columns);
        multiply::<M>(left.as_ptr(), panel.as_ptr(), width, part.pairs, sums);
    }
}

/// # Safety
/// The machine must have the instructions; `left` points at `pairs` times a pair of each of `M` rows, `panel` at `pairs` times two
/// registers of pairs that are `width` numbers apart, `sums` at `M` rows of 16 that are [`COLUMNS`] apart.
#[expect(unsafe_code, reason = "instructions that not every machine has, on raw pointers")]
#[expect(clippy::needless_range_loop, reason = "counted loops become registers, iterators do not")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const M: usize>(
    left: *const f32,
    panel: *const bf16,
    width: usize,
    pairs: usize,
    sums: *mut f32,
) {
    let mut all = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: as the caller promised, here and below.
    let at = |i: usize, j: usize| unsafe { sums.add(i * COLUMNS + j * HALF) };
    for i in 0..M {
        for j in 0..2 {
            all[i][j] = unsafe { _mm256_loadu_ps(at(i, j)) };
        }
    }
    for pair in 0..pairs {
        let two: [*const __m256i; 2] =
            [0, 1].map(|j| unsafe { panel.add(pair * width + 2 * HALF * j).cast() });
        // A pair's first number is the lower half of its 32 bits.
        let first = two.map(|two| unsafe { lower(_mm256_loadu_si256(two)) });
        for i in 0..M {
            let number = unsafe { _mm256_set1_ps(*left.add(2 * (pair * M + i))) };
            for j in 0..2 {
                all[i][j] = _mm256_fmadd_ps(number, first[j], all[i][j]);
            }
        }
        let second = two.map(|two| unsafe { upper(_mm256_loadu_si256(two)) });
        for i in 0..M {
            let number = unsafe { _mm256_set1_ps(*left.add(2 * (pair * M + i) + 1)) };
            for j in 0..2 {
                all[i][j] = _mm256_fmadd_ps(number, second[j], all[i][j]);
            }
        }
    }
    for i in 0..M {
        for j in 0..2 {
            unsafe { _mm256_storeu_ps(at(i, j), all[i][j]) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn lower(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
}

#[inline]
#[target_feature(enable = "avx2")]
fn upper(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-1 << 16)))
}
