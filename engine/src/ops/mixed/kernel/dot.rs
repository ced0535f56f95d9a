//! With the instruction that multiplies pairs of bf16, eight rows at a time.

use std::arch::x86_64::{
    __cpuid, __cpuid_count, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};
use std::sync::OnceLock;

use super::{COLUMNS, LANES, LeftRows, Strip, Sums};

/// Whether this machine has it.
pub(super) fn there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Whether it is faster than two additions of f32 products. Not on Intel's cores that have matrix registers, in use or
/// hidden: an Emerald Rapids begins one every 2.2 cycles (85 GFLOP/s), and two of f32 in each (190). They are told by
/// FP16 in such registers, which came with them.
pub(super) fn fast() -> bool {
    static FAST: OnceLock<bool> = OnceLock::new();
    *FAST.get_or_init(|| {
        const FP16: u32 = 1 << 23;
        const GENU: u32 = u32::from_le_bytes(*b"Genu");
        __cpuid(0).ebx != GENU || __cpuid_count(7, 0).edx & FP16 == 0
    })
}

/// Fills the first `rows` of `sums`; only where [`there`] holds and the strips hold what is asked.
#[expect(unsafe_code, reason = "the instruction has no safe form")]
pub(super) fn sums(rows: usize, registers: usize, strips: &[Strip<'_>], sums: &mut Sums) {
    let mut from = 0;
    while from < rows {
        let sums = &mut sums.0[from..];
        // SAFETY: the caller asked the machine and measured the slices.
        from += unsafe {
            match (rows - from, registers) {
                // One register alone would wait for its own sums.
                (16.., 1) => block::<16, 1>(from, strips, sums),
                (8.., 3) => block::<8, 3>(from, strips, sums),
                (8.., 2) => block::<8, 2>(from, strips, sums),
                (8.., _) => block::<8, 1>(from, strips, sums),
                (4.., 3) => block::<4, 3>(from, strips, sums),
                (4.., 2) => block::<4, 2>(from, strips, sums),
                (4.., _) => block::<4, 1>(from, strips, sums),
                (_, 3) => block::<1, 3>(from, strips, sums),
                (_, 2) => block::<1, 2>(from, strips, sums),
                _ => block::<1, 1>(from, strips, sums),
            }
        };
    }
}

/// Rows `from..from + M` of a tile of `W` registers; gives `M`.
///
/// # Safety
/// The machine must have the instructions, and every strip that many rows and registers.
#[expect(unsafe_code, reason = "the instruction has no safe form")]
#[expect(clippy::needless_range_loop, reason = "counted loops become registers, iterators do not")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn block<const M: usize, const W: usize>(
    from: usize,
    strips: &[Strip<'_>],
    sums: &mut [[f32; COLUMNS]],
) -> usize {
    let mut all = [[_mm512_setzero_ps(); W]; M];
    for strip in strips {
        // SAFETY: rows and panel lie within the slices, as the caller promised.
        unsafe {
            let mut panel = strip.panel.as_ptr();
            let LeftRows { numbers, stride, pairs: count } = strip.left;
            let left = numbers.as_ptr().add(from * stride);
            for pair in 0..count {
                let mut right = [_mm512_setzero_si512(); W];
                for j in 0..W {
                    right[j] = _mm512_loadu_si512(panel.add(2 * LANES * j).cast());
                }
                for i in 0..M {
                    let two = left.add(i * stride + 2 * pair).cast::<i32>();
                    let two = pairs(_mm512_set1_epi32(two.read_unaligned()));
                    for j in 0..W {
                        all[i][j] = _mm512_dpbf16_ps(all[i][j], two, pairs(right[j]));
                    }
                }
                panel = panel.add(2 * LANES * W);
            }
        }
    }
    for i in 0..M {
        let row = sums[i].as_mut_ptr();
        for j in 0..W {
            // SAFETY: a register of the row, which has `COLUMNS` numbers.
            unsafe { _mm512_storeu_ps(row.add(LANES * j), all[i][j]) };
        }
    }
    M
}

#[expect(unsafe_code, reason = "two names for the same 64 bytes")]
#[inline(always)]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without meaning of their own.
    unsafe { std::mem::transmute(bits) }
}
