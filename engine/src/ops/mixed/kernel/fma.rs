//! On processors with neither: bf16 is widened to f32, which is a shift, and multiplied as that, six rows at a time.
//!
//! The panel's pairs are widened where they are read.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};

use half::bf16;

use super::widened::{Widened, blocks};
use super::{COLUMNS, LANES, ROWS, Strip, Sums};

/// Numbers of one register, half of what [`LANES`] counts.
const HALF: usize = LANES / 2;

/// Whether this machine has what [`sums`] needs.
pub(super) fn there() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// As many rows as registers hold, and no fewer than keep them busy where that can be avoided.
pub(super) fn height(rows: usize) -> usize {
    match rows {
        8 => 4,
        6.. => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Fills the first `rows` of `sums`; only where [`there`] holds, `left` has the strips' rows for [`height`] and their
/// panels hold what is asked.
pub(super) fn sums(
    rows: usize,
    registers: usize,
    strips: &[Strip<'_>],
    sums: &mut Sums,
    left: &Widened,
) {
    sums.0[..rows].iter_mut().for_each(|row| row.fill(0.0));
    for (left, panel, pairs) in left.parts(rows, registers, strips) {
        for register in 0..registers {
            add(rows, &Part { left, panel, pairs, registers, register }, &mut sums.0);
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

/// Adds the part's product to 16 columns of each row.
fn add(rows: usize, part: &Part<'_>, sums: &mut [[f32; COLUMNS]; ROWS]) {
    for (from, count) in blocks(rows, height) {
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
