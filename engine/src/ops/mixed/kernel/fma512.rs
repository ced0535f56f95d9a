//! As [`fma`](super::fma), with registers twice as wide and twice as many: eight rows by all of a tile's columns.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_storeu_ps,
};

use half::bf16;

use super::widened::{EIGHT, Widened, blocks};
use super::{COLUMNS, LANES, Strip, Sums};

/// Whether this machine has what [`sums`] needs.
pub(super) fn there() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2")
}

/// As many rows as registers hold beside the panel's.
pub(super) fn height(rows: usize) -> usize {
    match rows {
        EIGHT.. => EIGHT,
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
        for (row, count) in blocks(rows, height) {
            let left = &left[2 * row * pairs..][..2 * count * pairs];
            let sums = &mut sums.0[row..row + count];
            match registers {
                3 => block::<3>(left, panel, pairs, sums),
                2 => block::<2>(left, panel, pairs, sums),
                _ => block::<1>(left, panel, pairs, sums),
            }
        }
    }
}

/// Adds a part of the depth to as many rows as `sums` has, of `W` registers.
#[expect(unsafe_code, reason = "instructions that not every machine has, on raw pointers")]
fn block<const W: usize>(left: &[f32], panel: &[bf16], pairs: usize, sums: &mut [[f32; COLUMNS]]) {
    assert!(left.len() >= 2 * pairs * sums.len() && panel.len() >= 2 * pairs * W * LANES);
    let (left, panel) = (left.as_ptr(), panel.as_ptr());
    // SAFETY: only a machine that has the instructions comes here; rows and panel reach that far.
    unsafe {
        match sums.len() {
            EIGHT => multiply::<EIGHT, W>(left, panel, pairs, sums),
            4 => multiply::<4, W>(left, panel, pairs, sums),
            2 => multiply::<2, W>(left, panel, pairs, sums),
            _ => multiply::<1, W>(left, panel, pairs, sums),
        }
    }
}

/// # Safety
/// The machine must have the instructions; `left` points at `pairs` times a pair of each of `M` rows, `panel` at
/// `pairs` times `W` registers of pairs.
#[expect(unsafe_code, reason = "instructions that not every machine has, on raw pointers")]
#[expect(clippy::needless_range_loop, reason = "counted loops become registers, iterators do not")]
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const M: usize, const W: usize>(
    mut left: *const f32,
    mut panel: *const bf16,
    pairs: usize,
    sums: &mut [[f32; COLUMNS]],
) {
    const { assert!(W * LANES <= COLUMNS) };
    let sums = &mut sums[..M];
    let mut all = [[_mm512_setzero_ps(); W]; M];
    for i in 0..M {
        for j in 0..W {
            // SAFETY: a register of the row, which has `COLUMNS` numbers.
            all[i][j] = unsafe { _mm512_loadu_ps(sums[i].as_ptr().add(LANES * j)) };
        }
    }
    for _ in 0..pairs {
        // SAFETY: as the caller promised.
        unsafe {
            // A pair's first number is the lower half of its 32 bits. Read twice, they take half as many registers.
            let mut right = [_mm512_setzero_ps(); W];
            for j in 0..W {
                right[j] = lower(_mm512_loadu_si512(panel.add(2 * LANES * j).cast()));
            }
            for i in 0..M {
                let number = _mm512_set1_ps(*left.add(2 * i));
                for j in 0..W {
                    all[i][j] = _mm512_fmadd_ps(number, right[j], all[i][j]);
                }
            }
            for j in 0..W {
                right[j] = upper(_mm512_loadu_si512(panel.add(2 * LANES * j).cast()));
            }
            for i in 0..M {
                let number = _mm512_set1_ps(*left.add(2 * i + 1));
                for j in 0..W {
                    all[i][j] = _mm512_fmadd_ps(number, right[j], all[i][j]);
                }
            }
            left = left.add(2 * M);
            panel = panel.add(2 * LANES * W);
        }
    }
    for i in 0..M {
        for j in 0..W {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(sums[i].as_mut_ptr().add(LANES * j), all[i][j]) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn lower(pairs: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn upper(pairs: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-1 << 16)))
}
