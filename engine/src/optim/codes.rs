//! Eight bits for a number between −1 and 1: the dynamic map of 8-bit optimizers.
//!
//! Each code holds a decade and a linear fraction within it, so that small numbers keep their relative precision
//! (dynamic tree quantization, arXiv 2110.02861, §1.3; the values are those of `bitsandbytes.functional.create_dynamic_map`).
//! [`super::moment`] scales a block of numbers into range before it comes here.

use std::sync::OnceLock;

/// Entries of the table that finds most codes.
const GRID: usize = 1 << 16;
/// Below this the grid is coarser than the codes are far apart, and the nearest code is searched for.
const SMALL: f32 = 1e-3;
/// Decades between the smallest code and 1.
const DECADES: i32 = 7;

/// 256 values in ascending order, and a quick way to the nearest.
#[derive(Debug)]
pub(super) struct CodeMap {
    values: [f32; 256],
    /// `bounds[i]` lies half way between values `i` and `i + 1`.
    bounds: [f32; 255],
    /// The code nearest to each of [`GRID`] evenly spread numbers from −1 to 1.
    grid: Box<[u8]>,
}

impl CodeMap {
    /// −1 to 1: for first moments.
    pub(super) fn signed() -> &'static Self {
        static MAP: OnceLock<CodeMap> = OnceLock::new();
        MAP.get_or_init(|| Self::new(true))
    }

    /// 0 to 1, twice as fine: for second moments.
    pub(super) fn unsigned() -> &'static Self {
        static MAP: OnceLock<CodeMap> = OnceLock::new();
        MAP.get_or_init(|| Self::new(false))
    }

    fn new(signed: bool) -> Self {
        let values = values(signed);
        let bounds = std::array::from_fn(|i| (values[i] + values[i + 1]) / 2.0);
        let nearest = |at: usize| search(&bounds, at as f32 / HALF - 1.0);
        Self { values, bounds, grid: (0..GRID).map(nearest).collect() }
    }

    /// The nearest code to `number`, which lies between −1 and 1: up to half a step of the 16-bit grid, as in
    /// bitsandbytes on a CPU, and exactly for small numbers.
    pub(super) fn code(&self, number: f32) -> u8 {
        if number.abs() < SMALL {
            return search(&self.bounds, number);
        }
        let at = ((number + 1.0) * HALF).round_ties_even() as usize;
        self.grid[at.min(GRID - 1)]
    }

    /// What `code` stands for.
    pub(super) fn value(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }
}

/// Half of the grid's steps: they reach from −1 to 1.
const HALF: f32 = (GRID - 1) as f32 / 2.0;

fn search(bounds: &[f32; 255], number: f32) -> u8 {
    bounds.partition_point(|bound| *bound < number) as u8
}

/// In f32 as PyTorch computes them, bit for bit.
fn values(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..DECADES {
        let count: usize = if signed { 1 << decade } else { 2 << decade };
        let step = (1.0 - 0.1) / count as f32;
        // `torch.linspace`: from the nearer end, fused.
        let bound = |i: usize| match i {
            i if i < count.div_ceil(2) => step.mul_add(i as f32, 0.1),
            i => (-step).mul_add((count - i) as f32, 1.0),
        };
        let scale = 10f64.powi(decade - (DECADES - 1)) as f32;
        for i in 0..count {
            let value = scale * ((bound(i) + bound(i + 1)) / 2.0);
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_unstable_by(f32::total_cmp);
    std::array::from_fn(|i| values[i])
}

#[cfg(test)]
mod tests {
    use super::super::fixture::numbers;
    use super::*;

    #[test]
    fn values_are_those_of_bitsandbytes() {
        assert_eq!(CodeMap::signed().values[..], numbers("bnb.AdamW8bit.qmap1"));
        assert_eq!(CodeMap::unsigned().values[..], numbers("bnb.AdamW8bit.qmap2"));
    }

    #[test]
    fn every_value_is_its_own_code() {
        for map in [CodeMap::signed(), CodeMap::unsigned()] {
            assert!(map.values.is_sorted());
            assert!((0..=255).all(|code| map.code(map.value(code)) == code));
        }
    }

    #[test]
    fn a_code_is_never_further_than_the_nearest_and_the_grid() {
        for map in [CodeMap::signed(), CodeMap::unsigned()] {
            let lowest = if map.values[0] < 0.0 { -1000 } else { 0 };
            for number in (lowest..=1000).map(|i| i as f32 / 1000.0) {
                let error = |code: u8| (map.value(code) - number).abs();
                let best = (0..=255).map(error).fold(f32::INFINITY, f32::min);
                assert!(error(map.code(number)) <= best + 2.0 / GRID as f32, "{number}");
            }
            assert_eq!(map.value(map.code(0.0)), 0.0, "nothing stays nothing");
        }
    }
}
