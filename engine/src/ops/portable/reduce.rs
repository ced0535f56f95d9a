//! From many numbers to one, in lanes that a compiler may run at once.

/// `Σ a · b` in eight lanes, which a compiler may run at once and which lose less than one long sum.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    lanes(
        a.chunks_exact(8).zip(b.chunks_exact(8)).map(|(a, b)| std::array::from_fn(|i| a[i] * b[i])),
    ) + a.iter().zip(b).skip(a.len() / 8 * 8).map(|(a, b)| a * b).sum::<f32>()
}

/// `Σ a · b · c`, as [`dot`].
pub(super) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let whole = a.chunks_exact(8).zip(b.chunks_exact(8)).zip(c.chunks_exact(8));
    lanes(whole.map(|((a, b), c)| std::array::from_fn(|i| a[i] * b[i] * c[i])))
        + a.iter().zip(b).zip(c).skip(a.len() / 8 * 8).map(|((a, b), c)| a * b * c).sum::<f32>()
}

fn lanes(terms: impl Iterator<Item = [f32; 8]>) -> f32 {
    let mut sums = [0.0; 8];
    for term in terms {
        sums.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
    }
    sums.iter().sum()
}

/// The largest number, in eight lanes; −∞ for none.
pub(super) fn max(row: &[f32]) -> f32 {
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
