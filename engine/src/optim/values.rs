//! The numbers that a step moves, in f32 or in bf16.

use std::ops::Range;

use half::bf16;

use super::rounding::Rounding;
use crate::ops::slices::widen;

/// Numbers that share a scale in 8 bits, and that are updated together.
pub(super) const BLOCK: usize = 256;

/// Numbers of one tensor that lie beside each other.
#[derive(Debug)]
pub(super) enum Values<'a> {
    F32(&'a mut [f32]),
    /// Rounded by chance.
    Bf16(&'a mut [bf16], Rounding),
}

impl<'a> Values<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(all) => all.len(),
            Self::Bf16(all, ..) => all.len(),
        }
    }

    /// Those in `range`.
    pub(super) fn part(&mut self, range: Range<usize>) -> Values<'_> {
        match self {
            Self::F32(all) => Values::F32(&mut all[range]),
            Self::Bf16(all, rounding) => {
                let rounding = rounding.past(range.start);
                Values::Bf16(&mut all[range], rounding)
            }
        }
    }

    /// Runs of `length`, the last as short as it must be.
    pub(super) fn runs(self, length: usize) -> Vec<Self> {
        match self {
            Self::F32(all) => all.chunks_mut(length).map(Values::F32).collect(),
            Self::Bf16(all, rounding) => {
                let runs = all.chunks_mut(length).enumerate();
                runs.map(|(run, part)| Values::Bf16(part, rounding.past(run * length))).collect()
            }
        }
    }

    /// The numbers of block `block`, as many as `into` holds.
    pub(super) fn load(&self, block: usize, into: &mut [f32]) {
        let range = block * BLOCK..block * BLOCK + into.len();
        match self {
            Self::F32(all) => into.copy_from_slice(&all[range]),
            Self::Bf16(all, _) => widen(into, &all[range]),
        }
    }

    /// Replaces the numbers of block `block`.
    pub(super) fn store(&mut self, block: usize, numbers: &[f32]) {
        let range = block * BLOCK..block * BLOCK + numbers.len();
        match self {
            Self::F32(all) => all[range].copy_from_slice(numbers),
            Self::Bf16(all, rounding) => {
                rounding.past(range.start).round(numbers, &mut all[range]);
            }
        }
    }

    /// Has `change` move block `block`, `count` numbers.
    pub(super) fn change(&mut self, block: usize, count: usize, change: impl FnOnce(&mut [f32])) {
        match self {
            Self::F32(all) => change(&mut all[block * BLOCK..block * BLOCK + count]),
            Self::Bf16(..) => {
                let mut numbers = [0.0; BLOCK];
                let numbers = &mut numbers[..count];
                self.load(block, numbers);
                change(numbers);
                self.store(block, numbers);
            }
        }
    }

    /// Has `change` move all of them at once.
    pub(super) fn change_all(self, change: impl FnOnce(&mut [f32])) {
        match self {
            Self::F32(all) => change(all),
            Self::Bf16(all, rounding) => {
                let mut numbers = vec![0.0; all.len()];
                widen(&mut numbers, all);
                change(&mut numbers);
                rounding.round(&numbers, all);
            }
        }
    }
}
