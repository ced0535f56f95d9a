//! The innermost loop of a bf16 product: a tile of the result, as many rows and columns as registers hold.
//!
//! Two neighbours along the summed dimension lie side by side as one 32-bit pair, in both factors: that is what
//! `VDPBF16PS` multiplies and adds, in f32. The twin in plain Rust sums in the same order.

use half::bf16;

use crate::ops::number::Number;
use crate::ops::wide::wide;

/// Rows of a tile.
pub(super) const ROWS: usize = 8;
/// Numbers of one register.
pub(super) const LANES: usize = 16;
/// Registers side by side in a tile.
pub(super) const WIDE: usize = 3;
/// Columns of a tile, and of a panel of the right factor.
pub(super) const COLUMNS: usize = LANES * WIDE;

/// One product of a sum of products that share a tile.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    /// Rows of the left factor, each `stride` after the one before; `2 · pairs` numbers of each are read.
    pub(super) left: &'a [bf16],
    pub(super) stride: usize,
    /// The right factor's panel: `pairs` times as many pairs as the tile has columns, whole registers.
    pub(super) panel: &'a [bf16],
    pub(super) pairs: usize,
}

impl Strip<'_> {
    /// Whether `rows` rows, and `registers` registers of columns, lie within the slices.
    fn holds(&self, rows: usize, registers: usize) -> bool {
        self.left.len() >= (rows - 1) * self.stride + 2 * self.pairs
            && self.panel.len() >= 2 * self.pairs * registers * LANES
    }
}

/// What a tile is written into: rows of `stride`, the first `columns` of a tile's columns.
pub(super) struct Target<'a, N> {
    pub(super) out: &'a mut [N],
    pub(super) stride: usize,
    pub(super) columns: usize,
    /// Whether the product is added to what is there.
    pub(super) add: bool,
}

/// The sum of `strips`' products, at most [`ROWS`] rows of it; their panels are `filled` columns wide.
pub(super) fn tile<N: Number>(
    rows: usize,
    filled: usize,
    strips: &[Strip<'_>],
    target: &mut Target<'_, N>,
) {
    let registers = filled / LANES;
    assert!((1..=ROWS).contains(&rows) && (1..=WIDE).contains(&registers));
    assert!(target.columns <= filled);
    assert!(strips.iter().all(|strip| strip.holds(rows, registers)));
    assert!(target.out.len() >= (rows - 1) * target.stride + target.columns);
    let mut sums = [[0.0; COLUMNS]; ROWS];
    #[cfg(target_arch = "x86_64")]
    if dot::there() {
        dot::sums(rows, registers, strips, &mut sums);
        return write(rows, &sums, target);
    }
    plain(rows, registers, strips, &mut sums);
    write(rows, &sums, target);
}

wide! {
    fn write[N: Number](rows: usize, sums: &[[f32; COLUMNS]; ROWS], target: &mut Target<'_, N>) {
        let Target { out, stride, columns, add } = target;
        for (sums, out) in sums[..rows].iter().zip(out.chunks_mut(*stride)) {
            let out = out[..*columns].iter_mut().zip(sums);
            if *add {
                out.for_each(|(out, sum)| *out = N::narrow(out.widen() + sum));
            } else {
                out.for_each(|(out, sum)| *out = N::narrow(*sum));
            }
        }
    }
}

wide! {
    /// The twin of `dot::sums`.
    fn plain(
        rows: usize,
        registers: usize,
        strips: &[Strip<'_>],
        sums: &mut [[f32; COLUMNS]; ROWS],
    ) {
        let width = registers * LANES;
        for strip in strips {
            for (pair, panel) in strip.panel.chunks_exact(2 * width).take(strip.pairs).enumerate() {
                for (row, sums) in sums[..rows].iter_mut().enumerate() {
                    let left = &strip.left[row * strip.stride + 2 * pair..][..2];
                    let (a, b) = (left[0].widen(), left[1].widen());
                    for (sum, right) in sums[..width].iter_mut().zip(panel.chunks_exact(2)) {
                        *sum += a * right[0].widen() + b * right[1].widen();
                    }
                }
            }
        }
    }
}

/// With the instruction that multiplies pairs of bf16.
#[cfg(target_arch = "x86_64")]
mod dot {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
    };

    use super::{COLUMNS, LANES, ROWS, Strip};

    /// Whether this machine has it.
    pub(super) fn there() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
    }

    /// Fills the first `rows` of `sums`; only where [`there`] holds and the strips hold what is asked.
    #[expect(unsafe_code, reason = "the instruction has no safe form")]
    pub(super) fn sums(
        rows: usize,
        registers: usize,
        strips: &[Strip<'_>],
        sums: &mut [[f32; COLUMNS]; ROWS],
    ) {
        let mut from = 0;
        while from < rows {
            let sums = &mut sums[from..];
            // SAFETY: the caller asked the machine and measured the slices.
            from += unsafe {
                match (rows - from, registers) {
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
    #[expect(
        clippy::needless_range_loop,
        reason = "counted loops become registers, iterators do not"
    )]
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
                let left = strip.left.as_ptr().add(from * strip.stride);
                for pair in 0..strip.pairs {
                    let mut right = [_mm512_setzero_si512(); W];
                    for j in 0..W {
                        right[j] = _mm512_loadu_si512(panel.add(2 * LANES * j).cast());
                    }
                    for i in 0..M {
                        let two = left.add(i * strip.stride + 2 * pair).cast::<i32>();
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, phase: f32) -> Vec<bf16> {
        (0..count).map(|i| bf16::narrow((i as f32 * 0.37 + phase).sin())).collect()
    }

    #[test]
    fn the_instruction_and_its_twin_agree() {
        for (rows, registers, pairs) in [(8, 3, 32), (7, 3, 5), (3, 1, 9), (1, 2, 1), (5, 2, 40)] {
            let left = numbers(ROWS * 100, 0.0);
            let panels = [numbers(2 * 48 * pairs, 1.0), numbers(2 * 48 * 4, 2.0)];
            let strips = [
                Strip { left: &left, stride: 100, panel: &panels[0], pairs },
                Strip { left: &left[3..], stride: 90, panel: &panels[1], pairs: 4 },
            ];
            let mut expected = [[0.0; COLUMNS]; ROWS];
            plain(rows, registers, &strips, &mut expected);
            let columns = registers * LANES - 3;
            let mut out = vec![1.0f32; ROWS * 60];
            tile(
                rows,
                registers * LANES,
                &strips,
                &mut Target { out: &mut out, stride: 60, columns, add: true },
            );
            for (row, expected) in expected.iter().enumerate() {
                for column in 0..60 {
                    let within = row < rows && column < columns;
                    let expected = if within { 1.0 + expected[column] } else { 1.0 };
                    let found = out[row * 60 + column];
                    assert!((found - expected).abs() < 2e-5, "{row} {column}: {found} {expected}");
                }
            }
        }
    }
}
