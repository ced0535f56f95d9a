//! Eight bits for a number between −1 and 1: the dynamic map of 8-bit optimizers.
//!
//! The values are `quant`'s [`dynamic8`]; here they are found faster, since every step of every number looks for one.
//! [`super::moment`] scales a block of numbers into range before it comes here.

use std::sync::LazyLock;

use crate::ops::wide::wide;
use crate::quant::{Codebook, dynamic8, dynamic8_unsigned};

/// Entries of the table that finds most codes.
const GRID: usize = 1 << 16;
/// Below this the grid is coarser than the codes are far apart.
const SMALL: f32 = 1e-3;
/// Bits of a number beside its sign, its exponent and the first five of its mantissa.
const REST: u32 = 18;
const STRETCHES: usize = 1 << (u32::BITS - REST);

/// A code book, and a quick way to the nearest of its codes.
#[derive(Debug)]
pub(super) struct CodeMap {
    pub(super) book: &'static Codebook<256>,
    /// The code nearest to each of [`GRID`] evenly spread numbers from −1 to 1.
    pub(super) grid: Box<[u8; GRID]>,
    /// For small numbers, by all of their bits but the last [`REST`]: near zero, those that agree so far lie nearer to
    /// each other than codes do.
    stretches: Box<[Stretch; STRETCHES]>,
}

/// What is near to numbers that lie beside each other.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// To the lowest of them.
    code: u8,
    /// Above this it is the next code.
    middle: f32,
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
        let stretch = |first: u32| {
            let ends = [first << REST, (first << REST) | ((1 << REST) - 1)].map(f32::from_bits);
            let code = book.nearest(ends[0].min(ends[1]));
            let middle = book.middles.get(usize::from(code)).copied();
            Stretch { code, middle: middle.unwrap_or(f32::INFINITY) }
        };
        let grid: Box<[u8]> = (0..GRID).map(nearest).collect();
        let stretches: Box<[Stretch]> = (0..STRETCHES as u32).map(stretch).collect();
        let sized = "as many as were made";
        Self {
            book,
            grid: grid.try_into().expect(sized),
            stretches: stretches.try_into().expect(sized),
        }
    }

    /// What `code` stands for.
    fn value(&self, code: u8) -> f32 {
        self.book.values()[usize::from(code)]
    }
}

wide! {
    /// What a block's `codes` stand for, by its largest magnitude.
    pub(super) fn decode(map: &CodeMap, absmax: f32, codes: &[u8], into: &mut [f32]) {
        for (number, code) in into.iter_mut().zip(codes) {
            *number = map.value(*code) * absmax;
        }
    }
}

wide! {
    /// The codes nearest to a block's `numbers`, of which `absmax` is the largest magnitude: up to half a step of the
    /// 16-bit grid, as in bitsandbytes on a CPU, and exactly for small numbers. Both are looked up and one is taken:
    /// no processor foresees which.
    pub(super) fn encode(map: &CodeMap, absmax: f32, numbers: &[f32], codes: &mut [u8]) {
        /// Where to look is worked out for so many at once.
        const LANES: usize = 64;
        let (mut scaled, mut places) = ([0.0; LANES], [0; LANES]);
        for (codes, numbers) in codes.chunks_mut(LANES).zip(numbers.chunks(LANES)) {
            for ((number, place), from) in scaled.iter_mut().zip(&mut places).zip(numbers) {
                *number = if absmax > 0.0 { from / absmax } else { 0.0 };
                *place = ((*number + 1.0) * HALF + WHOLE).to_bits();
            }
            for ((code, number), place) in codes.iter_mut().zip(&scaled).zip(&places) {
                let large = map.grid[*place as usize % GRID];
                let stretch = map.stretches[(number.to_bits() >> REST) as usize];
                let small = stretch.code.wrapping_add(u8::from(*number > stretch.middle));
                *code = if number.abs() < SMALL { small } else { large };
            }
        }
    }
}

/// f32 holds whole numbers only from here on: what is added to it is rounded, ties to even, and stands in the sum's last
/// bits.
const WHOLE: f32 = (1 << 23) as f32;
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

    fn code(map: &CodeMap, number: f32) -> u8 {
        let mut code = [0];
        encode(map, 1.0, &[number], &mut code);
        code[0]
    }

    #[test]
    fn every_value_is_its_own_code() {
        for map in [CodeMap::signed(), CodeMap::unsigned()] {
            assert!((0..=255).all(|number| code(map, map.value(number)) == number));
        }
    }

    #[test]
    fn a_code_is_never_further_than_the_nearest_and_the_grid() {
        for map in [CodeMap::signed(), CodeMap::unsigned()] {
            let lowest = if map.value(0) < 0.0 { -1000 } else { 0 };
            for number in (lowest..=1000).map(|i| i as f32 / 1000.0) {
                let error = |code: u8| (map.value(code) - number).abs();
                let best = (0..=255).map(error).fold(f32::INFINITY, f32::min);
                assert!(error(code(map, number)) <= best + 2.0 / GRID as f32, "{number}");
            }
            assert_eq!(map.value(code(map, 0.0)), 0.0, "nothing stays nothing");
        }
    }

    /// On both sides of every middle, and wherever the table's stretches begin and end.
    #[test]
    fn a_small_number_has_the_nearest_code() {
        for map in [CodeMap::signed(), CodeMap::unsigned()] {
            let middles = map.book.middles.iter().flat_map(|m| [m.next_down(), *m, m.next_up()]);
            let firsts = (0..STRETCHES as u32).map(|first| f32::from_bits(first << REST));
            let numbers = middles.chain(firsts.flat_map(|x| [x.next_down(), x]));
            for number in numbers.filter(|number| number.abs() < SMALL) {
                assert_eq!(code(map, number), map.book.nearest(number), "{number:e}");
            }
        }
    }
}
