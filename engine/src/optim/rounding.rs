//! Rounding f32 to bf16 by chance, so that steps too small to be seen in 8 bits of mantissa still add up.
//!
//! A number goes to the upper of its two neighbours as often as it lies near it, and on average nowhere
//! (arXiv 2010.06192). Which way is a function of seed, step, tensor and place.

use half::bf16;

use crate::ops::wide::wide;

/// What the numbers of one tensor are rounded by in one step, from some place in it on.
#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    key: [u32; 2],
    place: usize,
}

impl Rounding {
    pub(super) fn new(seed: u64, step: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("fleetune stochastic rounding");
        hasher.update(&seed.to_le_bytes()).update(&step.to_le_bytes()).update(name.as_bytes());
        let hash = hasher.finalize();
        let word = |i| u32::from_le_bytes(hash.as_bytes().as_chunks().0[i]);
        Self { key: [0, 1].map(word), place: 0 }
    }

    /// What the numbers of the whole tensor are drawn from.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn key(self) -> [u32; 2] {
        self.key
    }

    /// What moment `index` of the same tensor is rounded by in the same step.
    pub(super) fn of_moment(self, index: u32) -> Self {
        let key = [0, 1].map(|word| draw(self.key, !(2 * index + word)));
        Self { key, ..self }
    }

    /// For the numbers `count` places on.
    pub(super) fn past(self, count: usize) -> Self {
        Self { place: self.place + count, ..self }
    }

    /// Rounds `from` into `to` of the same length.
    pub(super) fn round(self, from: &[f32], to: &mut [bf16]) {
        // Beyond 2³² the places begin anew under another key.
        let [one, two] = self.key;
        let key = [one, two.wrapping_add((self.place >> 32) as u32)];
        round_all(key, self.place as u32, from, to);
    }
}

wide! {
    fn round_all(key: [u32; 2], place: u32, from: &[f32], to: &mut [bf16]) {
        for (i, (from, to)) in (0u32..).zip(from.iter().zip(to)) {
            *to = nudged(*from, draw(key, place.wrapping_add(i)) >> 16);
        }
    }
}

/// 32 bits as good as drawn: Wellons' `lowbias32` (hash-prospector), keyed before and halfway.
#[inline(always)]
fn draw([one, two]: [u32; 2], place: u32) -> u32 {
    let x = place ^ one;
    let x = (x ^ x >> 16).wrapping_mul(0x7feb_352d) ^ two;
    let x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// `draw` has 16 bits, as many as bf16 lacks. Written without a branch, so that several numbers go at once.
#[inline(always)]
fn nudged(number: f32, draw: u32) -> bf16 {
    const EXPONENT: u32 = 0x7f80_0000;
    let bits = number.to_bits();
    // Cannot carry into infinity unless the number was within half a step of it.
    let finite = bits.wrapping_add(draw) >> 16;
    // What is no number stays none, though only its lower half says so.
    let special = bits >> 16 | if bits & 0x007f_ffff == 0 { 0 } else { 0x40 };
    bf16::from_bits(if bits & EXPONENT == EXPONENT { special } else { finite } as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(numbers: &[f32], seed: u64) -> Vec<f32> {
        let mut to = vec![bf16::ZERO; numbers.len()];
        Rounding::new(seed, 1, "w").round(numbers, &mut to);
        to.into_iter().map(f32::from).collect()
    }

    #[test]
    fn what_is_bf16_already_stays() {
        let numbers: Vec<f32> =
            (0..1000).map(|i| bf16::from_f32(i as f32 * 0.37 - 150.0).into()).collect();
        assert_eq!(rounded(&numbers, 7), numbers);
        let faint = f32::from_bits(0x7f80_0001);
        let special = rounded(&[f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::NAN, faint], 7);
        assert_eq!(special[..3], [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
        assert!(special[3].is_nan() && special[4].is_nan());
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

    /// Neither neighbours, nor the same place a step later, nor of another tensor, know of each other.
    #[test]
    fn draws_know_nothing_of_each_other() {
        let of = |Rounding { key, .. }, from: u32| -> Vec<f64> {
            let number = |place| f64::from(draw(key, place) >> 16) / 65_535.0 - 0.5;
            (from..from + 100_000).map(number).collect()
        };
        let draws = |seed, step, name, from| of(Rounding::new(seed, step, name), from);
        let first = draws(1, 1, "w", 0);
        let moments = [0, 1].map(|index| Rounding::new(1, 1, "w").of_moment(index));
        for (what, second) in [
            ("the next place", draws(1, 1, "w", 1)),
            ("sixteen places on", draws(1, 1, "w", 16)),
            ("the next step", draws(1, 2, "w", 0)),
            ("another tensor", draws(1, 1, "v", 0)),
            ("another seed", draws(2, 1, "w", 0)),
            ("its first moment", of(moments[0], 0)),
            ("its second moment", of(moments[1], 0)),
        ] {
            let product = |(a, b): (&f64, &f64)| a * b;
            let correlation = 12.0 * first.iter().zip(&second).map(product).sum::<f64>() / 1e5;
            // Of 100,000 draws that know nothing of each other its deviation is 0.0032.
            assert!(correlation.abs() < 0.013, "{what}: {correlation}");
        }
        let bits: Vec<u32> = {
            let Rounding { key, .. } = Rounding::new(1, 1, "w");
            (0..100_000).map(|place| draw(key, place) >> 16).collect()
        };
        for bit in 0..16 {
            let ones = bits.iter().filter(|draw| *draw >> bit & 1 == 1).count();
            assert!((49_300..50_700).contains(&ones), "bit {bit}: {ones}");
        }
    }

    #[test]
    fn the_draw_is_of_seed_and_place_alone() {
        let numbers: Vec<f32> = (0..3000).map(|i| (i as f32).sin()).collect();
        let all = rounded(&numbers, 3);
        assert_eq!(all, rounded(&numbers, 3));
        assert_ne!(all, rounded(&numbers, 4));
        let mut rest = vec![bf16::ZERO; 2000];
        Rounding::new(3, 1, "w").past(1000).round(&numbers[1000..], &mut rest);
        assert!(all[1000..].iter().zip(rest).all(|(all, rest)| *all == rest.to_f32()));
    }
}
