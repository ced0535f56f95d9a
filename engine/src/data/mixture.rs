//! Several sets of sequences as one: which are held out, and in which order the rest is drawn. Only their numbers
//! are looked at.

use fleetune_shared::recipe::{HeldOut, Mixing, StoppingStrategy};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Streams of the seed that no epoch has.
const HELD_OUT_STREAM: u64 = u64::MAX;
const MIXING_STREAM: u64 = u64::MAX - 1;

fn rng(seed: u64, stream: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Takes sequences out of all sets, as many as asked for, drawn from the seed; they come in their own order.
pub(super) fn hold_out(
    sets: &mut [Vec<u32>],
    held_out: &HeldOut,
    seed: u64,
) -> Result<Vec<u32>, String> {
    let rows: usize = sets.iter().map(Vec::len).sum();
    let count = match held_out {
        HeldOut::None | HeldOut::Sets(_) => return Ok(Vec::new()),
        // Rounded up, as scikit-learn and `datasets` do.
        HeldOut::Part(part) => (rows as f64 * part).ceil() as usize,
        HeldOut::Rows(count) => usize::try_from(*count).unwrap_or(usize::MAX),
    };
    if count >= rows {
        return Err(format!(
            "`test_split_size` holds out {count} of {rows} rows, so none is left to train on; hold out fewer"
        ));
    }
    // The first `count` of a Fisher–Yates shuffle.
    let mut rng = rng(seed, HELD_OUT_STREAM);
    let mut order: Vec<usize> = (0..rows).collect();
    for i in 0..count {
        let draw = u128::from(rng.next_u64()) * (rows - i) as u128;
        order.swap(i, i + (draw >> 64) as usize);
    }
    let mut taken = vec![false; rows];
    for i in &order[..count] {
        taken[*i] = true;
    }
    let mut taken = taken.into_iter();
    let mut out = Vec::with_capacity(count);
    for set in sets {
        set.retain(|sequence| {
            let held = taken.next().unwrap_or(false);
            if held {
                out.push(*sequence);
            }
            !held
        });
    }
    Ok(out)
}

/// Draws from the sets by chance until one of them, or every one, has been read to its end: `interleave_datasets` of
/// Hugging Face's `datasets`, with a draw of our own.
pub(super) fn interleave(sets: &[Vec<u32>], mixing: &Mixing, seed: u64) -> Vec<u32> {
    let mut rng = rng(seed, MIXING_STREAM);
    let mut next = vec![0; sets.len()];
    let mut exhausted: Vec<bool> = sets.iter().map(Vec::is_empty).collect();
    let mut out = Vec::new();
    let ended = |exhausted: &[bool]| match mixing.stopping {
        StoppingStrategy::FirstExhausted => exhausted.iter().any(|done| *done),
        StoppingStrategy::AllExhausted => exhausted.iter().all(|done| *done),
    };
    while !ended(&exhausted) {
        let mut draw = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let chosen = mixing.probabilities.iter().position(|probability| {
            draw -= probability;
            draw < 0.0
        });
        let chosen = chosen.unwrap_or(sets.len() - 1);
        let Some(sequence) = sets[chosen].get(next[chosen]) else { continue };
        out.push(*sequence);
        next[chosen] += 1;
        if next[chosen] == sets[chosen].len() {
            next[chosen] = 0;
            exhausted[chosen] = true;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(sizes: &[u32]) -> Vec<Vec<u32>> {
        let mut row = 0;
        let mut set = |size: &u32| {
            let rows = row..row + size;
            row += size;
            rows.collect()
        };
        sizes.iter().map(&mut set).collect()
    }

    fn mixed(
        sizes: &[u32],
        probabilities: &[f64],
        stopping: StoppingStrategy,
        seed: u64,
    ) -> Vec<u32> {
        let mixing = Mixing { probabilities: probabilities.to_vec(), stopping };
        interleave(&sets(sizes), &mixing, seed)
    }

    #[test]
    fn sets_are_drawn_in_proportion_and_each_in_its_order() {
        let out = mixed(&[4000, 4000], &[0.8, 0.2], StoppingStrategy::FirstExhausted, 7);
        let (first, second): (Vec<u32>, Vec<u32>) = out.iter().partition(|row| **row < 4000);
        assert!(first.len() == 4000 && (900..1100).contains(&second.len()), "{}", second.len());
        assert!(first.is_sorted() && second.is_sorted());
        assert_eq!(out, mixed(&[4000, 4000], &[0.8, 0.2], StoppingStrategy::FirstExhausted, 7));
        assert_ne!(out, mixed(&[4000, 4000], &[0.8, 0.2], StoppingStrategy::FirstExhausted, 8));
    }

    #[test]
    fn a_short_set_ends_the_mixture_or_begins_again() {
        let first = mixed(&[3, 1000], &[0.5, 0.5], StoppingStrategy::FirstExhausted, 1);
        assert_eq!(first.iter().filter(|row| **row < 3).count(), 3);
        assert_eq!(first.last(), Some(&2));
        let all = mixed(&[3, 1000], &[0.5, 0.5], StoppingStrategy::AllExhausted, 1);
        assert_eq!(all.iter().filter(|row| **row >= 3).count(), 1000);
        let again: Vec<u32> = all.into_iter().filter(|row| *row < 3).collect();
        assert!(again.len() > 900 && again[..7] == [0, 1, 2, 0, 1, 2, 0]);
    }

    /// A checkpoint of an earlier version must find its rows again: these draws never change.
    #[test]
    fn draws_are_the_same_for_ever() {
        let out = mixed(&[9, 9], &[0.5, 0.5], StoppingStrategy::FirstExhausted, 42);
        let mut held = sets(&[6, 6]);
        let out_of = hold_out(&mut held, &HeldOut::Rows(4), 42).unwrap();
        assert_eq!(out, [9, 10, 11, 0, 12, 1, 2, 3, 4, 13, 14, 15, 5, 6, 7, 8]);
        assert_eq!(out_of, [1, 3, 6, 8]);
    }

    #[test]
    fn what_is_held_out_is_not_trained_on() {
        for (held_out, expected) in
            [(HeldOut::Part(0.25), 3), (HeldOut::Rows(5), 5), (HeldOut::None, 0)]
        {
            let mut sets = sets(&[4, 8]);
            let out = hold_out(&mut sets, &held_out, 3).unwrap();
            assert_eq!(out.len(), expected);
            assert!(out.is_sorted());
            let mut all = [out, sets[0].clone(), sets[1].clone()].concat();
            all.sort_unstable();
            assert_eq!(all, (0..12).collect::<Vec<_>>());
        }
        let error = hold_out(&mut sets(&[4]), &HeldOut::Rows(4), 3).unwrap_err();
        assert!(error.contains("holds out 4 of 4 rows"), "{error}");
    }
}
