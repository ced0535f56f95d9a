//! Task vectors: what training added to numbers, and how several of them become one.
//!
//! Trim, elect sign and merge are TIES' (arXiv 2306.01708), dropping and rescaling DARE's (arXiv 2311.03099), the plain
//! weighted sum is task arithmetic (arXiv 2212.04089). `combine` merges adapters by them in PEFT's order of operations,
//! `models` whole models in mergekit's.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// The border between a vector's largest numbers and the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Size of the smallest number that stays.
    least: f32,
    /// How many of exactly that size stay: the first ones.
    of_least: usize,
}

impl Cut {
    /// Leaves `⌊density · n⌋` numbers; `sizes` holds their absolute values and is shuffled.
    pub(super) fn of(density: f64, sizes: &mut [f32]) -> Self {
        let keep = (density * sizes.len() as f64) as usize;
        if keep >= sizes.len() {
            return Self { least: 0.0, of_least: usize::MAX };
        }
        if keep == 0 {
            return Self { least: f32::INFINITY, of_least: 0 };
        }
        let (larger, least, _) = sizes.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
        let least = *least;
        let above = larger.iter().filter(|size| **size > least).count();
        Self { least, of_least: keep - above }
    }

    /// Sets all but the largest to zero.
    pub(super) fn apply(self, values: &mut [f32]) {
        let mut left = self.of_least;
        for value in values {
            let size = value.abs();
            if size < self.least || (size == self.least && left == 0) {
                *value = 0.0;
            } else if size == self.least {
                left -= 1;
            }
        }
    }
}

/// Keeps `⌊density · n⌋` of the largest numbers.
pub(super) fn trim(values: &mut [f32], density: f64) {
    if density < 1.0 {
        let mut sizes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
        Cut::of(density, &mut sizes).apply(values);
    }
}

/// Keeps each number with probability `density`, divided by it so that the expected sum stays. The draws are those of
/// `stream`, whatever was drawn before.
pub(super) fn drop_and_rescale(values: &mut [f32], density: f64, seed: u64, stream: u64) {
    if density >= 1.0 {
        return;
    }
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    for value in values {
        let unit = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        *value = if unit < density { (f64::from(*value) / density) as f32 } else { 0.0 };
    }
}

/// What decides the sign of a merged number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// The sum of the numbers.
    #[default]
    Total,
    /// How many have each sign.
    Frequency,
}

impl MajoritySign {
    /// PEFT's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Frequency => "frequency",
        }
    }

    /// What one number adds; the sign of the sum is elected, plus where it is zero.
    pub(super) fn vote(self, value: f32) -> f32 {
        match self {
            Self::Total => value,
            Self::Frequency if value == 0.0 => 0.0,
            Self::Frequency => 1f32.copysign(value),
        }
    }
}

/// `Σ weight · vector`.
pub(super) fn weighted_sum(vectors: &[Vec<f32>], weights: &[f32]) -> Vec<f32> {
    let mut sum = vec![0.0; vectors.first().map_or(0, Vec::len)];
    for (vector, weight) in vectors.iter().zip(weights) {
        for (sum, x) in sum.iter_mut().zip(vector) {
            *sum += x * weight;
        }
    }
    sum
}

/// The weighted mean of the numbers that have the elected sign, where the mean is over how many they are, not over
/// their weights: PEFT's `disjoint_merge`.
pub(super) fn disjoint_mean(vectors: &[Vec<f32>], weights: &[f32], sign: MajoritySign) -> Vec<f32> {
    let length = vectors.first().map_or(0, Vec::len);
    let one = |at: usize| {
        let votes: f32 = vectors.iter().map(|vector| sign.vote(vector[at])).sum();
        let (mut sum, mut count) = (0.0, 0.0f32);
        for (vector, weight) in vectors.iter().zip(weights) {
            let x = vector[at];
            if x != 0.0 && (x > 0.0) == (votes >= 0.0) {
                sum += x * weight;
                count += 1.0;
            }
        }
        sum / count.max(1.0)
    };
    (0..length).into_par_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::read_all;
    use crate::ops::slices;

    #[test]
    fn the_bare_functions_are_those_of_peft() {
        let path: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "../tests/fixtures/merge/task_vectors.safetensors"]
                .iter()
                .collect();
        let tensors = read_all(&path).unwrap();
        let numbers = |name: &str| slices::view(&tensors[name]).unwrap().to_vec();
        let vectors = [numbers("tv.0"), numbers("tv.1"), numbers("tv.2")];
        let weights = numbers("weights");
        let check = |name: &str, found: &[f32]| {
            for (found, expected) in found.iter().zip(numbers(name)) {
                assert!((found - expected).abs() < 1e-6, "{name}: {found} {expected}");
            }
        };
        check("task_arithmetic", &weighted_sum(&vectors, &weights));
        for density in ["0.2", "0.5", "0.9", "1.0"] {
            let mut trimmed = vectors.clone();
            trimmed.iter_mut().for_each(|vector| trim(vector, density.parse().unwrap()));
            check(&format!("magnitude_prune.{density}"), &weighted_sum(&trimmed, &weights));
            for (name, sign) in
                [("total", MajoritySign::Total), ("frequency", MajoritySign::Frequency)]
            {
                let found = disjoint_mean(&trimmed, &weights, sign);
                check(&format!("ties.{density}.{name}"), &found);
            }
        }
        // Drawn by chance, except where everything stays.
        let mut dropped = vectors;
        dropped.iter_mut().for_each(|vector| drop_and_rescale(vector, 1.0, 0, 0));
        check("dare_linear.1.0", &weighted_sum(&dropped, &weights));
    }

    #[test]
    fn of_equal_numbers_the_first_stay() {
        let mut values = [1.0, -1.0, 1.0, 2.0, 0.5];
        trim(&mut values, 0.6);
        assert_eq!(values, [1.0, -1.0, 0.0, 2.0, 0.0]);
        trim(&mut values, 0.0);
        assert_eq!(values, [0.0; 5]);
    }

    /// DARE's statement: a share of the numbers stays, and the expected sum with it.
    #[test]
    fn dropping_keeps_the_density_and_the_mean() {
        let values: Vec<f32> = (0..100_000).map(|i| 1.0 + (i % 7) as f32).collect();
        for density in [0.1, 0.5, 0.9] {
            let mut dropped = values.clone();
            drop_and_rescale(&mut dropped, density, 5, 1);
            let kept = dropped.iter().filter(|x| **x != 0.0).count() as f64 / 1e5;
            assert!((kept - density).abs() < 0.01, "{kept} of {density}");
            let sum = |values: &[f32]| values.iter().map(|x| f64::from(*x)).sum::<f64>();
            assert!((sum(&dropped) / sum(&values) - 1.0).abs() < 0.02);
            for (dropped, value) in dropped.iter().zip(&values) {
                assert!(*dropped == 0.0 || (dropped * density as f32 - value).abs() < 1e-5);
            }
            let (mut again, mut other) = (values.clone(), values.clone());
            drop_and_rescale(&mut again, density, 5, 1);
            drop_and_rescale(&mut other, density, 5, 2);
            assert_eq!(again, dropped);
            assert_ne!(other, dropped);
        }
    }
}
