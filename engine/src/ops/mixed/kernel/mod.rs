//! The innermost loop of a bf16 product: a tile of the result.
//!
//! Two neighbours along the summed dimension lie side by side as one 32-bit pair, in both factors: that is what
//! `TDPBF16PS` ([`amx`]) and `VDPBF16PS` ([`dot`]) multiply and add, in f32. The twin in plain Rust sums in the same
//! order. The fastest that the machine has is taken.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;

use half::bf16;

use crate::ops::number::Number;
use crate::ops::wide::wide;

/// Rows of a tile.
pub(super) const ROWS: usize = 32;
/// Numbers of one register.
pub(super) const LANES: usize = 16;
/// Registers side by side in a tile.
pub(super) const WIDE: usize = 3;
/// Columns of a tile, and of a panel of the right factor.
pub(super) const COLUMNS: usize = LANES * WIDE;

/// A tile's sums; rows begin with a cache line.
#[repr(align(64))]
struct Sums([[f32; COLUMNS]; ROWS]);

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
    let mut sums = Sums([[0.0; COLUMNS]; ROWS]);
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if amx::there() {
        amx::sums(rows, registers, strips, &mut sums);
        return write(rows, &sums, target);
    }
    #[cfg(target_arch = "x86_64")]
    if dot::there() {
        dot::sums(rows, registers, strips, &mut sums);
        return write(rows, &sums, target);
    }
    plain(rows, registers, strips, &mut sums);
    write(rows, &sums, target);
}

wide! {
    fn write[N: Number](rows: usize, sums: &Sums, target: &mut Target<'_, N>) {
        let Target { out, stride, columns, add } = target;
        for (sums, out) in sums.0[..rows].iter().zip(out.chunks_mut(*stride)) {
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
    /// The twin of the two with instructions for it.
    fn plain(
        rows: usize,
        registers: usize,
        strips: &[Strip<'_>],
        sums: &mut Sums,
    ) {
        let width = registers * LANES;
        for strip in strips {
            for (pair, panel) in strip.panel.chunks_exact(2 * width).take(strip.pairs).enumerate() {
                for (row, sums) in sums.0[..rows].iter_mut().enumerate() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, phase: f32) -> Vec<bf16> {
        (0..count).map(|i| bf16::narrow((i as f32 * 0.37 + phase).sin())).collect()
    }

    /// The kernels of this machine, the fastest first.
    type Kernel = fn(usize, usize, &[Strip<'_>], &mut Sums);

    fn kernels() -> Vec<Kernel> {
        let mut kernels: Vec<Kernel> = Vec::new();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::there() {
            kernels.push(amx::sums);
        }
        #[cfg(target_arch = "x86_64")]
        if dot::there() {
            kernels.push(dot::sums);
        }
        kernels
    }

    #[test]
    fn instructions_and_their_twin_agree() {
        let depths = [(1, 9), (40, 4), (5, 16), (16, 8), (48, 17)];
        for (rows, registers) in
            [(32, 3), (31, 3), (17, 2), (16, 3), (9, 2), (3, 1), (32, 1), (1, 2), (32, 2)]
        {
            for (pairs, more) in depths {
                let left = numbers(ROWS * 100, 0.0);
                let panels = [numbers(2 * 48 * pairs, 1.0), numbers(2 * 48 * more, 2.0)];
                let strips = [
                    Strip { left: &left, stride: 98, panel: &panels[0], pairs },
                    Strip { left: &left[3..], stride: 90, panel: &panels[1], pairs: more },
                ];
                let mut expected = Sums([[0.0; COLUMNS]; ROWS]);
                plain(rows, registers, &strips, &mut expected);
                for kernel in kernels() {
                    let mut found = Sums([[0.0; COLUMNS]; ROWS]);
                    kernel(rows, registers, &strips, &mut found);
                    for row in 0..rows {
                        for column in 0..registers * LANES {
                            let (found, expected) = (found.0[row][column], expected.0[row][column]);
                            let far = (found - expected).abs();
                            assert!(far < 2e-5, "{rows} {registers} {pairs}: {found} {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_is_added_where_it_belongs_and_nowhere_else() {
        let (left, panel) = (numbers(ROWS * 40, 0.0), numbers(2 * 48 * 20, 1.0));
        let strips = [Strip { left: &left, stride: 40, panel: &panel, pairs: 20 }];
        for (rows, columns) in [(32, 48), (7, 45)] {
            let mut expected = Sums([[0.0; COLUMNS]; ROWS]);
            plain(rows, WIDE, &strips, &mut expected);
            let mut out = vec![1.0f32; ROWS * 60];
            let mut target = Target { out: &mut out, stride: 60, columns, add: true };
            tile(rows, COLUMNS, &strips, &mut target);
            for (at, found) in out.iter().enumerate() {
                let (row, column) = (at / 60, at % 60);
                let within = row < rows && column < columns;
                let expected = if within { 1.0 + expected.0[row][column] } else { 1.0 };
                assert!((found - expected).abs() < 2e-5, "{row} {column}: {found} {expected}");
            }
        }
    }
}
