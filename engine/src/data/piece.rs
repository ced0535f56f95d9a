//! Pieces of a micro-batch: runs of its sequences that are learned from together.

use std::cmp::Reverse;
use std::ops::Range;

/// Cuts sequences of `sizes` tokens into runs of at most `most` tokens, as long as they can be from the first on. A
/// longer sequence is a run of its own.
pub(super) fn cut(sizes: &[usize], most: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut room = 0;
    for (i, size) in sizes.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if *size <= room => {
                run.end = i + 1;
                room -= size;
            }
            _ => {
                runs.push(i..i + 1);
                room = most.saturating_sub(*size);
            }
        }
    }
    runs
}

/// The sequences of the run with most tokens that [`cut`] can make of `count` of them in any order.
pub(super) fn largest(sizes: &[usize], count: usize, most: usize) -> Vec<usize> {
    let mut sequences: Vec<usize> = (0..sizes.len()).collect();
    sequences.sort_by_key(|i| Reverse(sizes[*i]));
    let all = sequences.iter().take(count);
    if all.clone().map(|i| sizes[*i]).sum::<usize>() <= most {
        return all.copied().collect();
    }
    match sequences.first() {
        Some(first) if sizes[*first] >= most => vec![*first],
        _ => fullest(&sequences, sizes, count, most),
    }
}

/// At most `count` of `sequences`, none longer than `most` tokens and the longest first, that come closest to `most`.
fn fullest(sequences: &[usize], sizes: &[usize], count: usize, most: usize) -> Vec<usize> {
    // For each number of tokens the fewest sequences that make it up.
    let mut fewest: Vec<Option<Vec<usize>>> = vec![None; most + 1];
    fewest[0] = Some(Vec::new());
    for same in sequences.chunk_by(|a, b| sizes[*a] == sizes[*b]) {
        let size = sizes[same[0]].max(1);
        for sequence in same.iter().take(count.min(most / size)) {
            for tokens in (size..=most).rev() {
                let Some(before) = &fewest[tokens - size] else { continue };
                let known = fewest[tokens].as_ref().map_or(count + 1, Vec::len);
                if before.len() + 1 < known {
                    let with = before.iter().chain([sequence]).copied().collect();
                    fewest[tokens] = Some(with);
                }
            }
        }
    }
    fewest.into_iter().rev().flatten().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        assert_eq!(cut(&[3, 4, 5, 12, 1, 9], 10), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(cut(&[3, 4], usize::MAX), std::slice::from_ref(&(0..2)));
        assert!(cut(&[], 10).is_empty());
    }

    #[test]
    fn the_largest_run_is_the_one_that_fills_most() {
        let largest = |sizes: &[usize], count, most| -> Vec<usize> {
            largest(sizes, count, most).iter().map(|i| sizes[*i]).collect()
        };
        assert_eq!(largest(&[600, 500, 500, 500], 4, 1024), [500, 500]);
        assert_eq!(largest(&[600, 500, 400, 30], 4, 1024), [600, 400]);
        assert_eq!(largest(&[600, 500, 400, 20], 2, usize::MAX), [600, 500]);
        assert_eq!(largest(&[600, 2000, 400], 4, 1024), [2000]);
        assert_eq!(largest(&[300, 300, 300, 300], 2, 1024), [300, 300]);
    }

    proptest! {
        #[test]
        fn no_order_makes_a_larger_run(sizes in prop::collection::vec(1usize..14, 1..9), count in 1usize..5, most in 1usize..24, seed in 0usize..1000) {
            let tokens = |run: &[usize]| run.iter().map(|i| sizes[*i]).sum::<usize>();
            let bound = tokens(&largest(&sizes, count, most));
            let mut order: Vec<usize> = (0..sizes.len()).collect();
            order.sort_by_key(|i| (i * 7919 + seed) * 104_729 % 1009);
            for chunk in order.chunks(count) {
                let chunk_sizes: Vec<usize> = chunk.iter().map(|i| sizes[*i]).collect();
                let runs = cut(&chunk_sizes, most);
                prop_assert_eq!(runs.iter().map(Range::len).sum::<usize>(), chunk.len());
                for run in runs {
                    prop_assert!(tokens(&chunk[run.clone()]) <= bound);
                    prop_assert!(run.len() == 1 || tokens(&chunk[run]) <= most);
                }
            }
        }
    }
}
