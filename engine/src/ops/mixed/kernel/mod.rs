//! The innermost loop of a bf16 product: a tile of the result.
//!
//! Two neighbours along the summed dimension lie side by side as one 32-bit pair, in both factors: that is what
//! `TDPBF16PS` ([`amx`]) and `VDPBF16PS` ([`dot`]) multiply and add, in f32. Without them pairs are widened to f32
//! ([`fma512`], [`fma`]); the twin in plain Rust runs anywhere. The fastest that the machine has is taken.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod fma;
#[cfg(target_arch = "x86_64")]
mod fma512;
#[cfg(target_arch = "x86_64")]
mod widened;

use std::marker::PhantomData;

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

/// Rows of a left factor, each `stride` after the one before; `2 · pairs` numbers of each are read.
#[derive(Clone, Copy)]
pub(super) struct LeftRows<'a> {
    pub(super) numbers: &'a [bf16],
    pub(super) stride: usize,
    pub(super) pairs: usize,
}

/// One product of a sum of products, at most two, that share a tile.
struct Strip<'a> {
    left: LeftRows<'a>,
    /// The right factor's panel: as many times the tile's columns in pairs as the left factor's rows have pairs, whole
    /// registers.
    panel: &'a [bf16],
}

/// A matrix that several tasks write into, each its own part.
pub(super) struct Shared<'a, N> {
    numbers: *mut N,
    rows: usize,
    columns: usize,
    life: PhantomData<&'a mut [N]>,
}

#[expect(unsafe_code, reason = "it stands for the slice it was made of")]
// SAFETY: as that of `&mut [N]`; parts of it are written by who promised that they are apart.
unsafe impl<N: Send> Sync for Shared<'_, N> {}

impl<'a, N> Shared<'a, N> {
    /// Of rows of `columns` numbers.
    pub(super) fn of(out: &'a mut [N], columns: usize) -> Self {
        let rows = out.len() / columns.max(1);
        Self { numbers: out.as_mut_ptr(), rows, columns, life: PhantomData }
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// So many rows and columns from those on.
    ///
    /// # Safety
    /// While it lives there is no other part that has a place in common with it.
    #[expect(unsafe_code, reason = "the borrow checker does not know rectangles")]
    pub(super) unsafe fn part(
        &self,
        (row, rows): (usize, usize),
        (column, columns): (usize, usize),
        add: bool,
    ) -> Target<'a, N> {
        assert!(row + rows <= self.rows && column + columns <= self.columns);
        // SAFETY: within the slice, as was just asked.
        let first = unsafe { self.numbers.add(row * self.columns + column) };
        Target { first, stride: self.columns, rows, columns, add, life: PhantomData }
    }
}

/// What a tile is written into: so many rows, each `stride` after the one before, the first of a tile's columns.
pub(super) struct Target<'a, N> {
    first: *mut N,
    stride: usize,
    rows: usize,
    columns: usize,
    /// Whether the product is added to what is there.
    add: bool,
    life: PhantomData<&'a mut [N]>,
}

impl<'a, N> Target<'a, N> {
    /// As many rows as there are.
    pub(super) fn of(out: &'a mut [N], stride: usize, columns: usize, add: bool) -> Self {
        assert!(columns <= stride);
        let rows = if out.len() < columns { 0 } else { (out.len() - columns) / stride + 1 };
        Self { first: out.as_mut_ptr(), stride, rows, columns, add, life: PhantomData }
    }

    #[inline(always)]
    fn row(&mut self, row: usize) -> &mut [N] {
        assert!(row < self.rows);
        #[expect(unsafe_code, reason = "rows of a rectangle within a matrix")]
        // SAFETY: whoever made it measured the matrix, and nobody else has these places.
        unsafe {
            std::slice::from_raw_parts_mut(self.first.add(row * self.stride), self.columns)
        }
    }
}

/// What a task multiplies with, on one thread, which must not begin another before this one ends: no parallel loop, in
/// which it might take up a second task, while one lives.
pub(super) struct Work<'a> {
    unit: Unit,
    rows: usize,
    lefts: [Option<LeftRows<'a>>; 2],
    /// Of the tile at work; of no meaning afterwards.
    sums: Sums,
    #[cfg(target_arch = "x86_64")]
    widened: widened::Widened,
    /// Some machines are set up for it thread by thread.
    here: PhantomData<*const ()>,
}

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Dot,
    #[cfg(target_arch = "x86_64")]
    Fma512,
    #[cfg(target_arch = "x86_64")]
    Fma,
    Plain,
}

impl Unit {
    /// The fastest there is.
    fn best() -> Self {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::there() {
            return Self::Amx;
        }
        #[cfg(target_arch = "x86_64")]
        if dot::there() && dot::fast() {
            return Self::Dot;
        }
        #[cfg(target_arch = "x86_64")]
        if fma512::there() {
            return Self::Fma512;
        }
        #[cfg(target_arch = "x86_64")]
        if fma::there() {
            return Self::Fma;
        }
        Self::Plain
    }

    /// Of those that want the left factor widened.
    #[cfg(target_arch = "x86_64")]
    fn height(self) -> Option<widened::Height> {
        match self {
            Self::Fma512 => Some(fma512::height),
            Self::Fma => Some(fma::height),
            _ => None,
        }
    }
}

/// How many numbers along a sum go into one instruction. What is left of a multiple of it costs more than zeros would.
pub(super) fn deep() -> usize {
    match Unit::best() {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Unit::Amx => amx::DEEP,
        _ => 2,
    }
}

/// Whether matrix registers are there and may be used.
pub(super) fn has_matrix_registers() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        amx::there()
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

impl<'a> Work<'a> {
    #[inline(always)]
    pub(super) fn begin() -> Self {
        Self::with(Unit::best())
    }

    /// In its caller, where the sums then lie.
    #[inline(always)]
    fn with(unit: Unit) -> Self {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if unit == Unit::Amx {
            amx::begin();
        }
        Self {
            unit,
            rows: 0,
            lefts: [None; 2],
            sums: Sums([[0.0; COLUMNS]; ROWS]),
            #[cfg(target_arch = "x86_64")]
            widened: widened::Widened::again(),
            here: PhantomData,
        }
    }

    /// Takes up `rows` rows, at most [`ROWS`], of one or two left factors for the tiles that follow.
    pub(super) fn take(&mut self, rows: usize, lefts: [Option<LeftRows<'a>>; 2]) {
        assert!((1..=ROWS).contains(&rows));
        let holds =
            |left: &LeftRows<'_>| left.numbers.len() >= (rows - 1) * left.stride + 2 * left.pairs;
        assert!(lefts.iter().flatten().all(holds));
        (self.rows, self.lefts) = (rows, lefts);
        #[cfg(target_arch = "x86_64")]
        if let Some(height) = self.unit.height() {
            self.widened.take(rows, lefts.iter().flatten(), height);
        }
    }

    /// The sum of their products with `panels`, which are `filled` columns wide.
    pub(super) fn tile<N: Number>(
        &mut self,
        filled: usize,
        panels: [&[bf16]; 2],
        target: &mut Target<'_, N>,
    ) {
        let (rows, registers) = (self.rows, filled / LANES);
        assert!((1..=WIDE).contains(&registers) && target.columns <= filled);
        assert!(rows <= target.rows);
        const NONE: LeftRows<'_> = LeftRows { numbers: &[], stride: 0, pairs: 0 };
        let [first, second] = self.lefts;
        // Written out: a closure would be a call, and this is where tiles begin.
        let strips = [
            Strip { left: first.unwrap_or(NONE), panel: panels[0] },
            Strip { left: second.unwrap_or(NONE), panel: panels[1] },
        ];
        for strip in &strips {
            assert!(strip.panel.len() >= 2 * strip.left.pairs * filled);
        }
        let strips = &strips[..if second.is_some() { 2 } else { 1 }];
        let sums = &mut self.sums;
        match self.unit {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Unit::Amx => amx::sums(rows, registers, strips, sums),
            #[cfg(target_arch = "x86_64")]
            Unit::Dot => dot::sums(rows, registers, strips, sums),
            #[cfg(target_arch = "x86_64")]
            Unit::Fma512 => fma512::sums(rows, registers, strips, sums, &self.widened),
            #[cfg(target_arch = "x86_64")]
            Unit::Fma => fma::sums(rows, registers, strips, sums, &self.widened),
            Unit::Plain => plain(rows, registers, strips, sums),
        }
        write(rows, &self.sums, target);
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.unit == Unit::Amx {
            amx::end();
        }
        #[cfg(target_arch = "x86_64")]
        self.widened.keep();
    }
}

wide! {
    fn write[N: Number](rows: usize, sums: &Sums, target: &mut Target<'_, N>) {
        let add = target.add;
        for (row, sums) in sums.0[..rows].iter().enumerate() {
            let out = target.row(row).iter_mut().zip(sums);
            if add {
                out.for_each(|(out, sum)| *out = N::narrow(out.widen() + sum));
            } else {
                out.for_each(|(out, sum)| *out = N::narrow(*sum));
            }
        }
    }
}

wide! {
    /// The twin of the others.
    fn plain(
        rows: usize,
        registers: usize,
        strips: &[Strip<'_>],
        sums: &mut Sums,
    ) {
        let width = registers * LANES;
        sums.0[..rows].iter_mut().for_each(|row| row.fill(0.0));
        for strip in strips {
            let Strip { left: LeftRows { numbers, stride, pairs }, panel } = *strip;
            for (pair, panel) in panel.chunks_exact(2 * width).take(pairs).enumerate() {
                for (row, sums) in sums.0[..rows].iter_mut().enumerate() {
                    let left = &numbers[row * stride + 2 * pair..][..2];
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

    fn units() -> Vec<Unit> {
        let mut units = vec![Unit::Plain];
        #[cfg(target_arch = "x86_64")]
        if dot::there() {
            units.push(Unit::Dot);
        }
        #[cfg(target_arch = "x86_64")]
        if fma512::there() {
            units.push(Unit::Fma512);
        }
        #[cfg(target_arch = "x86_64")]
        if fma::there() {
            units.push(Unit::Fma);
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::there() {
            units.push(Unit::Amx);
        }
        units
    }

    /// `left · right`, both as numbers, the right one as a panel of `width` columns has them.
    fn product(left: LeftRows<'_>, panel: &[bf16], rows: usize, width: usize) -> Vec<f64> {
        let mut sums = vec![0.0; rows * width];
        for row in 0..rows {
            for depth in 0..2 * left.pairs {
                let number = f64::from(left.numbers[row * left.stride + depth]);
                for column in 0..width {
                    let at = (depth / 2 * width + column) * 2 + depth % 2;
                    sums[row * width + column] += number * f64::from(panel[at]);
                }
            }
        }
        sums
    }

    #[test]
    fn every_unit_multiplies() {
        let depths = [(1, 9), (40, 4), (16, 8), (145, 17), (288, 1), (300, 130)];
        let sizes = [(32, 3), (31, 3), (17, 2), (16, 3), (3, 1), (32, 1), (1, 2), (32, 2)];
        for (rows, registers) in sizes {
            for (pairs, more) in depths {
                let (stride, width) = (2 * pairs + 10, registers * LANES);
                let left = numbers(rows * (stride + 2 * more) + 100, 0.0);
                let panels = [numbers(2 * width * pairs, 1.0), numbers(2 * width * more, 2.0)];
                let lefts = [
                    LeftRows { numbers: &left, stride, pairs },
                    LeftRows { numbers: &left[3..], stride: 2 * more - 1, pairs: more },
                ];
                let each = [0, 1].map(|i| product(lefts[i], &panels[i], rows, width));
                for unit in units() {
                    let mut work = Work::with(unit);
                    // The second time without the second factor.
                    for count in [2, 1] {
                        work.take(rows, [Some(lefts[0]), Some(lefts[1]).filter(|_| count == 2)]);
                        // Nothing is written beyond the columns asked for, and what is there stays a summand.
                        let columns = width - 3;
                        let mut out = vec![1.0f32; rows * 60];
                        let mut target = Target::of(&mut out, 60, columns, true);
                        work.tile(width, [&panels[0], &panels[1]], &mut target);
                        for (at, found) in out.iter().enumerate() {
                            let (row, column) = (at / 60, at % 60);
                            let at = row * width + column.min(width - 1);
                            let product: f64 =
                                each[..count].iter().map(|product| product[at]).sum();
                            let expected =
                                if column < columns { 1.0 + product as f32 } else { 1.0 };
                            let far = (found - expected).abs();
                            assert!(
                                far < 2e-4,
                                "{unit:?} {rows} {registers} {pairs}: {found} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}
