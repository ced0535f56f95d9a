//! Rounding f32 to bf16 by chance, so that steps too small to be seen in 8 bits of mantissa still add up.
//!
//! A number goes to the upper of its two neighbours as often as it lies near it, and on average nowhere
//! (arXiv 2010.06192). Which way is a function of seed, step, tensor and place.

use half::bf16;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// Numbers rounded in one go by one thread; two of them share a draw.
const RUN: usize = 1 << 14;

/// Rounds `from` into `to`, of the same length.
pub(super) fn round(seed: u64, step: u64, name: &str, from: &[f32], to: &mut [bf16]) {
    let rng = rng(seed, step, name);
    let runs = from.par_chunks(RUN).zip(to.par_chunks_mut(RUN)).enumerate();
    runs.for_each(|(run, (from, to))| {
        let mut rng = rng.clone();
        rng.set_word_pos((run * RUN / 2) as u128);
        for (from, to) in from.chunks(2).zip(to.chunks_mut(2)) {
            let draw = rng.next_u32();
            for ((from, to), draw) in from.iter().zip(to).zip([draw & 0xffff, draw >> 16]) {
                *to = nudged(*from, draw);
            }
        }
    });
}

/// `draw` has 16 bits, as many as bf16 lacks.
fn nudged(number: f32, draw: u32) -> bf16 {
    if !number.is_finite() {
        return bf16::from_f32(number);
    }
    // Cannot carry into infinity unless the number was within half a step of it.
    bf16::from_bits((number.to_bits().wrapping_add(draw) >> 16) as u16)
}

fn rng(seed: u64, step: u64, name: &str) -> ChaCha12Rng {
    let mut hasher = blake3::Hasher::new_derive_key("fleetune stochastic rounding");
    hasher.update(&seed.to_le_bytes()).update(&step.to_le_bytes()).update(name.as_bytes());
    ChaCha12Rng::from_seed(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(numbers: &[f32], seed: u64) -> Vec<f32> {
        let mut to = vec![bf16::ZERO; numbers.len()];
        round(seed, 1, "w", numbers, &mut to);
        to.into_iter().map(f32::from).collect()
    }

    #[test]
    fn what_is_bf16_already_stays() {
        let numbers: Vec<f32> =
            (0..1000).map(|i| bf16::from_f32(i as f32 * 0.37 - 150.0).into()).collect();
        assert_eq!(rounded(&numbers, 7), numbers);
        let special = rounded(&[f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::NAN], 7);
        assert_eq!(special[..3], [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
        assert!(special[3].is_nan());
    }

    #[test]
    fn the_mean_is_the_number() {
        // bf16 has 1 and 1.0078125 here; nearest rounding would give 1 every time.
        for (number, low, high) in [(1.001f32, 1.0, 1.007_812_5), (-1.003, -1.007_812_5, -1.0)] {
            let found = rounded(&vec![number; 100_000], 3);
            assert!(found.iter().all(|x| *x == low || *x == high));
            let mean = found.iter().sum::<f32>() / found.len() as f32;
            assert!((mean - number).abs() < 1e-4, "{number}: {mean}");
        }
    }

    #[test]
    fn the_draw_is_of_seed_and_place_alone() {
        let numbers: Vec<f32> = (0..3 * RUN + 5).map(|i| (i as f32).sin()).collect();
        let all = rounded(&numbers, 3);
        assert_eq!(all, rounded(&numbers, 3));
        assert_ne!(all, rounded(&numbers, 4));
        assert_eq!(all[..RUN], rounded(&numbers[..RUN], 3), "what follows changes nothing");
        assert_ne!(rounded(&vec![1.001; RUN], 3), rounded(&vec![1.001; 2 * RUN], 3)[RUN..]);
    }
}
