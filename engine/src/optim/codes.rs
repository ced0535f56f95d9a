//! Eight bits for a number between −1 and 1: the dynamic map of 8-bit optimizers.
//!
//! The values are `quant`'s [`dynamic8`]; here they are found faster, since every step of every number looks for one.
//! [`super::moment`] scales a block of numbers into range before it comes here.

use std::sync::LazyLock;

use crate::quant::{Codebook, dynamic8, dynamic8_unsigned};

/// Entries of the table that finds most codes.
const GRID: usize = 1 << 16;
/// Below this the grid is coarser than the codes are far apart, and the nearest code is searched for.
const SMALL: f32 = 1e-3;

/// A code book, and a quick way to the nearest of its codes.
#[derive(Debug)]
pub(super) struct CodeMap {
    pub(super) book: &'static Codebook<256>,
    /// The code nearest to each of [`GRID`] evenly spread numbers from −1 to 1.
    pub(super) grid: Box<[u8]>,
}

impl CodeMap {
    /// −1 to 1: for first moments.
    pub(super) fn signed() -> &'static Self {
        static MAP: LazyLock<CodeMap> = LazyLock::new(|| CodeMap::new(dynamic8()));
        &MAP
    }

    /// 0 to 1, twice as fine: for second moments.
    pub(super) fn unsigned() -> &'static Self {
        static MAP: LazyLock<CodeMap> = LazyLock::new(|| CodeMap::new(dynamic8_unsigned()));
        &MAP
    }

    fn new(book: &'static Codebook<256>) -> Self {
        let nearest = |at: usize| book.nearest(at as f32 / HALF - 1.0);
        Self { book, grid: (0..GRID).map(nearest).collect() }
    }

    /// The nearest code to `number`, which lies between −1 and 1: up to half a step of the 16-bit grid, as in
    /// bitsandbytes on a CPU, and exactly for small numbers.
    pub(super) fn code(&self, number: f32) -> u8 {
        if number.abs() < SMALL {
            return self.book.nearest(number);
        }
        let at = ((number + 1.0) * HALF).round_ties_even() as usize;
        self.grid[at.min(GRID - 1)]
    }

    /// What `code` stands for.
    pub(super) fn value(&self, code: u8) -> f32 {
        self.book.values()[usize::from(code)]
    }
}

/// Half of the grid's steps: they reach from −1 to 1.
const HALF: f32 = (GRID - 1) as f32 / 2.0;

#[cfg(test)]
mod tests {
    use super::super::fixture::numbers;
    use super::*;

    #[test]
    fn values_are_those_of_bitsandbytes() {
        assert_eq!(CodeMap::signed().book.values()[..], numbers("bnb.AdamW8bit.qmap1"));
        assert_eq!(CodeMap::unsigned().book.values()[..], numbers("bnb.AdamW8bit.qmap2"));
    }

    #[test]
    fn every_value_is_its_own_code() {
        for map in [CodeMap::signed(), CodeMap::unsigned()] {
            assert!((0..=255).all(|code| map.code(map.value(code)) == code));
        }
    }

    #[test]
    fn a_code_is_never_further_than_the_nearest_and_the_grid() {
        for map in [CodeMap::signed(), CodeMap::unsigned()] {
            let lowest = if map.value(0) < 0.0 { -1000 } else { 0 };
            for number in (lowest..=1000).map(|i| i as f32 / 1000.0) {
                let error = |code: u8| (map.value(code) - number).abs();
                let best = (0..=255).map(error).fold(f32::INFINITY, f32::min);
                assert!(error(map.code(number)) <= best + 2.0 / GRID as f32, "{number}");
            }
            assert_eq!(map.value(map.code(0.0)), 0.0, "nothing stays nothing");
        }
    }
}
