//! From many numbers to one, in lanes that a compiler may run at once.

use rayon::prelude::*;

use crate::ops::number::Number;
use crate::ops::wide::wide;

/// Lanes of a sum: two of the widest registers, so that one addition need not wait for the one before it. A lane's sum
/// also loses less than one long sum.
const LANES: usize = 32;

/// `Σ a · b`, in lanes.
#[inline(always)]
pub(crate) fn dot<A: Number, B: Number>(a: &[A], b: &[B]) -> f32 {
    let mut sums = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i].widen() * b[i].widen();
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a.widen() * b.widen();
    }
    total(sums)
}

/// `Σ a · b · c`, as [`dot`].
#[inline(always)]
pub(crate) fn dot3<A: Number, B: Number, C: Number>(a: &[A], b: &[B], c: &[C]) -> f32 {
    let mut sums = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let (c, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            sums[i] += a[i].widen() * b[i].widen() * c[i].widen();
        }
    }
    for (sum, ((a, b), c)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest).zip(c_rest)) {
        *sum += a.widen() * b.widen() * c.widen();
    }
    total(sums)
}

#[inline(always)]
fn total(sums: [f32; LANES]) -> f32 {
    folded(sums, |a, b| a + b)
}

/// Halves laid on each other until one is left.
#[inline(always)]
fn folded(mut lanes: [f32; LANES], both: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = both(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Numbers whose squares are summed in one go. Fixed, so that the sum does not depend on the number of threads.
const CHUNK: usize = 1 << 15;

/// `Σ x²` in f64, chunk by chunk; cores share the chunks.
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

/// The largest number, in lanes; −∞ for none.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for row in whole {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], row[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *x);
    }
    folded(lanes, larger)
}
