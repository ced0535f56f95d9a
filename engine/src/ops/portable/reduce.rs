//! From many numbers to one, in lanes that a compiler may run at once.

use crate::ops::number::Number;

/// `Σ a · b` in eight lanes, which a compiler may run at once and which lose less than one long sum.
#[inline(always)]
pub(crate) fn dot<A: Number, B: Number>(a: &[A], b: &[B]) -> f32 {
    let whole = a.chunks_exact(8).zip(b.chunks_exact(8));
    lanes(whole.map(|(a, b)| std::array::from_fn(|i| a[i].widen() * b[i].widen())))
        + a.iter().zip(b).skip(a.len() / 8 * 8).map(|(a, b)| a.widen() * b.widen()).sum::<f32>()
}

/// `Σ a · b · c`, as [`dot`].
#[inline(always)]
pub(crate) fn dot3<A: Number, B: Number, C: Number>(a: &[A], b: &[B], c: &[C]) -> f32 {
    let whole = a.chunks_exact(8).zip(b.chunks_exact(8)).zip(c.chunks_exact(8));
    lanes(
        whole
            .map(|((a, b), c)| std::array::from_fn(|i| a[i].widen() * b[i].widen() * c[i].widen())),
    ) + a
        .iter()
        .zip(b)
        .zip(c)
        .skip(a.len() / 8 * 8)
        .map(|((a, b), c)| a.widen() * b.widen() * c.widen())
        .sum::<f32>()
}

#[inline(always)]
fn lanes(terms: impl Iterator<Item = [f32; 8]>) -> f32 {
    let mut sums = [0.0; 8];
    for term in terms {
        sums.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
    }
    sums.iter().sum()
}

/// The largest number, in eight lanes; −∞ for none.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let whole = row.chunks_exact(8);
    let rest = whole.remainder();
    for eight in whole {
        for (lane, x) in lanes.iter_mut().zip(eight) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}
