//! Sums of squares.

use rayon::prelude::*;

use crate::ops::wide::wide;

/// Elements whose squares are summed in one go. Fixed, so that the sum does not depend on the number of threads.
const CHUNK: usize = 1 << 15;

/// Lanes of a chunk's sum, which a compiler may run at once.
const LANES: usize = 32;

pub(crate) fn squares(numbers: &[f32]) -> f64 {
    let sums: Vec<f64> = numbers.par_chunks(CHUNK).map(sum_of_squares).collect();
    sums.iter().sum()
}

wide! {
    fn sum_of_squares(numbers: &[f32]) -> f64 {
        let mut sums = [0.0; LANES];
        let (whole, rest) = numbers.as_chunks::<LANES>();
        for numbers in whole.iter().map(|numbers| numbers.as_slice()).chain([rest]) {
            for (sum, x) in sums.iter_mut().zip(numbers) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
        sums.iter().sum()
    }
}
