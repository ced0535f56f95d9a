//! `C = α · op(A) · op(B) + β · C` as cuBLAS means it: column by column, each matrix in its type, sums in f32 or f64.
//!
//! A stripe of `B`'s columns and then panels of `A`'s rows are copied to where the innermost loop reads them in order;
//! that loop holds a tile of `C` in registers for the whole depth, so a sum is rounded to `C`'s type once.

use std::ops::{Add, Mul};

use half::bf16;

/// A tile's rows and columns.
const ROWS: usize = 16;
const COLUMNS: usize = 4;
/// Columns that share the copies of `A`'s panels.
const STRIPE: usize = 256;

/// What sums are held in.
pub(crate) trait Real: Copy + PartialEq + Add<Output = Self> + Mul<Output = Self> {
    const ZERO: Self;

    /// `self · by + to`, rounded once.
    fn fused(self, by: Self, to: Self) -> Self;
}

impl Real for f32 {
    const ZERO: Self = 0.0;

    fn fused(self, by: Self, to: Self) -> Self {
        self.mul_add(by, to)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;

    fn fused(self, by: Self, to: Self) -> Self {
        self.mul_add(by, to)
    }
}

/// A type of matrices, and what its products are summed in.
pub(crate) trait Element: Copy {
    type Sum: Real;

    fn widen(self) -> Self::Sum;
    fn narrow(sum: Self::Sum) -> Self;
}

impl Element for f32 {
    type Sum = Self;

    fn widen(self) -> Self {
        self
    }

    fn narrow(sum: Self) -> Self {
        sum
    }
}

impl Element for f64 {
    type Sum = Self;

    fn widen(self) -> Self {
        self
    }

    fn narrow(sum: Self) -> Self {
        sum
    }
}

impl Element for bf16 {
    type Sum = f32;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn narrow(sum: f32) -> Self {
        Self::from_f32(sum)
    }
}

/// How a factor lies: from one column to the next it is `leading` numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor {
    pub(crate) transposed: bool,
    pub(crate) leading: usize,
}

impl Factor {
    /// Where the number in `row` and `column` of the factor as it is multiplied lies.
    fn at(self, row: usize, column: usize) -> usize {
        if self.transposed { column + row * self.leading } else { row + column * self.leading }
    }
}

/// `C` is `m · n`; `op(A)` is `m · k` and `op(B)` is `k · n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: Factor,
    pub(crate) b: Factor,
    pub(crate) leading: usize,
}

/// Numbers from the first to the last of a matrix of so many rows and columns as it is stored.
fn extent(rows: usize, columns: usize, leading: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (columns - 1) * leading + rows }
}

impl Shape {
    /// Numbers `A`, `B` and `C` reach over.
    pub(crate) fn extents(&self) -> [usize; 3] {
        let stored = |factor: Factor, rows, columns| match factor.transposed {
            true => extent(columns, rows, factor.leading),
            false => extent(rows, columns, factor.leading),
        };
        [
            stored(self.a, self.m, self.k),
            stored(self.b, self.k, self.n),
            extent(self.m, self.n, self.leading),
        ]
    }

    /// Whether columns do not overlap.
    pub(crate) fn fits(&self) -> bool {
        let rows = |factor: Factor, plain, transposed| match factor.transposed {
            true => transposed,
            false => plain,
        };
        self.a.leading >= rows(self.a, self.m, self.k).max(1)
            && self.b.leading >= rows(self.b, self.k, self.n).max(1)
            && self.leading >= self.m.max(1)
    }

    /// The product, of which `c` has a part of `beta` beforehand; of nothing when it is 0, be it NaN.
    ///
    /// # Panics
    /// When a slice is shorter than [`Self::extents`] says.
    pub(crate) fn multiply<S, T>(&self, alpha: T::Sum, a: &[S], b: &[S], beta: T::Sum, c: &mut [T])
    where
        S: Element<Sum = T::Sum>,
        T: Element,
    {
        let mut columns = Vec::new();
        let mut rows = Vec::new();
        for left in (0..self.n).step_by(STRIPE) {
            let width = STRIPE.min(self.n - left);
            pack::<COLUMNS, _>(&mut columns, width, self.k, |j, p| {
                b[self.b.at(p, left + j)].widen()
            });
            for top in (0..self.m).step_by(ROWS) {
                let height = ROWS.min(self.m - top);
                pack::<ROWS, _>(&mut rows, height, self.k, |i, p| a[self.a.at(top + i, p)].widen());
                for first in (0..width).step_by(COLUMNS) {
                    let panel = &columns[first * self.k..][..COLUMNS * self.k];
                    let sums = tile(&rows, panel);
                    for (j, sums) in sums.iter().enumerate().take(width - first) {
                        let begin = top + (left + first + j) * self.leading;
                        for (old, sum) in c[begin..begin + height].iter_mut().zip(sums) {
                            let new = alpha * *sum;
                            let kept = beta != T::Sum::ZERO;
                            *old = T::narrow(if kept { new + beta * old.widen() } else { new });
                        }
                    }
                }
            }
        }
    }
}

/// Copies `lines` of `depth` numbers so that `N` lines lie side by side, with zeros beside the last.
fn pack<const N: usize, R: Real>(
    panels: &mut Vec<R>,
    lines: usize,
    depth: usize,
    number: impl Fn(usize, usize) -> R,
) {
    panels.clear();
    panels.resize(lines.div_ceil(N) * N * depth, R::ZERO);
    for (panel, first) in panels.chunks_exact_mut((N * depth).max(1)).zip((0..lines).step_by(N)) {
        for (p, side) in panel.chunks_exact_mut(N).enumerate() {
            for (line, place) in (first..lines).zip(side) {
                *place = number(line, p);
            }
        }
    }
}

type Tile<R> = [[R; ROWS]; COLUMNS];

/// The products of a panel of rows and one of columns.
fn tile<R: Real>(rows: &[R], columns: &[R]) -> Tile<R> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has both.
        return unsafe { tile_by_avx2(rows, columns) };
    }
    sums::<R, { cfg!(target_arch = "aarch64") }>(rows, columns)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_by_avx2<R: Real>(rows: &[R], columns: &[R]) -> Tile<R> {
    sums::<R, true>(rows, columns)
}

/// `FUSED` where the CPU has an instruction for it: in software it takes an age.
#[inline(always)]
fn sums<R: Real, const FUSED: bool>(rows: &[R], columns: &[R]) -> Tile<R> {
    let mut sums = [[R::ZERO; ROWS]; COLUMNS];
    let (rows, _) = rows.as_chunks::<ROWS>();
    let (columns, _) = columns.as_chunks::<COLUMNS>();
    for (row, column) in rows.iter().zip(columns) {
        for (sums, &y) in sums.iter_mut().zip(column) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum = if FUSED { x.fused(y, *sum) } else { x * y + *sum };
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 in no order.
    fn numbers(count: usize, seed: u32) -> Vec<f64> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn shapes() -> Vec<Shape> {
        let sizes = [(1, 1, 1), (16, 4, 7), (17, 5, 33), (3, 300, 2), (40, 9, 0), (5, 258, 64)];
        let mut all = Vec::new();
        for (m, n, k) in sizes {
            for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
                let leading = |transposed, plain: usize, other: usize| Factor {
                    transposed,
                    leading: if transposed { other } else { plain }.max(1) + 3,
                };
                let (a, b) = (leading(first, m, k), leading(second, k, n));
                all.push(Shape { m, n, k, a, b, leading: m + 2 });
            }
        }
        all
    }

    /// Three loops in f64 say what is right; numbers between columns stay as they were.
    fn agrees<S, T>(
        from: impl Fn(f64) -> S,
        to: impl Fn(f64) -> T,
        value: impl Fn(&T) -> f64,
        tolerance: f64,
    ) where
        S: Element<Sum = T::Sum> + Into<f64>,
        T: Element,
        T::Sum: From<f32>,
    {
        for (shape, beta) in shapes().into_iter().flat_map(|shape| [(shape, 0.0), (shape, -0.5)]) {
            let [a, b, c] = shape.extents();
            let a: Vec<S> = numbers(a, 1).into_iter().map(&from).collect();
            let b: Vec<S> = numbers(b, 2).into_iter().map(&from).collect();
            let old: Vec<T> = numbers(c, 3).into_iter().map(&to).collect();
            let mut new = old.clone();
            shape.multiply(T::Sum::from(2.0), &a, &b, T::Sum::from(beta), &mut new);
            for (at, (new, old)) in new.iter().zip(&old).enumerate() {
                let (i, j) = (at % shape.leading, at / shape.leading);
                let expected = if i < shape.m {
                    let terms = (0..shape.k).map(|p| -> f64 {
                        a[shape.a.at(i, p)].into() * b[shape.b.at(p, j)].into()
                    });
                    2.0 * terms.sum::<f64>() + f64::from(beta) * value(old)
                } else {
                    value(old)
                };
                let off = (value(new) - expected).abs();
                assert!(off <= tolerance * expected.abs().max(1.0), "{shape:?} ({i}, {j}): {off}");
            }
        }
    }

    #[test]
    fn products_in_f32() {
        agrees(|x| x as f32, |x| x as f32, |x| f64::from(*x), 1e-5);
    }

    #[test]
    fn products_in_f64() {
        agrees(|x| x, |x| x, |x| *x, 1e-13);
    }

    #[test]
    fn products_of_bf16_are_rounded_once() {
        agrees(bf16::from_f64, bf16::from_f64, |x| x.to_f64(), 1.0 / 256.0);
        agrees(bf16::from_f64, |x| x as f32, |x| f64::from(*x), 1e-5);
    }

    #[test]
    fn a_cpu_that_does_not_fuse_comes_near() {
        let (rows, columns) = (numbers(ROWS * 9, 1), numbers(COLUMNS * 9, 2));
        let (near, sums) = (sums::<f64, false>(&rows, &columns), tile(&rows, &columns));
        for (near, sum) in near.iter().flatten().zip(sums.iter().flatten()) {
            assert!((near - sum).abs() < 1e-14, "{near} {sum}");
        }
    }

    #[test]
    fn without_a_beta_what_was_there_is_not_looked_at() {
        let factor = Factor { transposed: false, leading: 1 };
        let shape = Shape { m: 1, n: 1, k: 1, a: factor, b: factor, leading: 1 };
        let mut c = [f32::NAN];
        shape.multiply(1.0, &[2.0f32], &[3.0], 0.0, &mut c);
        assert_eq!(c, [6.0]);
    }

    #[test]
    fn columns_that_overlap_do_not_fit() {
        let factor = |transposed, leading| Factor { transposed, leading };
        let shape = Shape { m: 4, n: 3, k: 2, a: factor(false, 4), b: factor(true, 3), leading: 4 };
        assert!(shape.fits());
        assert!(!Shape { a: factor(false, 3), ..shape }.fits());
        assert!(!Shape { b: factor(true, 2), ..shape }.fits());
        assert!(!Shape { leading: 3, ..shape }.fits());
    }
}
