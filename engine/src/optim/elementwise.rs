//! Optimizers that treat every number alone: what a step does to one, and how that is done to many.

use rayon::prelude::*;

use super::moment::{Moment, Run};
use super::rounding::Rounding;
use super::values::{BLOCK, Values};
use crate::ops::wide::wide;

/// Numbers updated in one go by one thread: whole blocks.
const RUN: usize = 64 * BLOCK;

/// One step of an optimizer with `N` moments, its numbers already worked out.
pub(super) trait Rule<const N: usize>: Copy + Send + Sync {
    /// A number, its gradient and its moments before the step to number and moments after it.
    fn apply(self, value: f32, grad: f32, moments: [f32; N]) -> (f32, [f32; N]);
}

wide! {
    /// One block.
    fn step[const N: usize, R: Rule<N>](
        rule: R,
        values: &mut [f32],
        grads: &[f32],
        moments: &mut [[f32; BLOCK]; N],
    ) {
        for (i, (value, grad)) in values.iter_mut().zip(grads).enumerate() {
            let (after, new) = rule.apply(*value, *grad, moments.each_ref().map(|m| m[i]));
            *value = after;
            for (moment, new) in moments.iter_mut().zip(new) {
                moment[i] = new;
            }
        }
    }
}

/// Applies `rule` to `values`. Moments in bf16 are rounded by what `rounding` has for each. Every block is computed
/// alone, so the result does not depend on how they are shared among threads.
pub(super) fn update<const N: usize>(
    rule: impl Rule<N>,
    values: Values<'_>,
    grads: &[f32],
    moments: &mut [Moment],
    rounding: Rounding,
) {
    assert_eq!(values.len(), grads.len());
    let moments: &mut [Moment; N] = moments.try_into().expect("as many moments as the rule has");
    let mut index = 0..;
    let mut runs = moments.each_mut().map(|moment| {
        let rounding = rounding.of_moment(index.next().unwrap_or_default());
        moment.runs_mut(RUN, rounding).into_iter()
    });
    let runs: Vec<[Run<'_>; N]> = (0..values.len().div_ceil(RUN))
        .map(|_| runs.each_mut().map(|run| run.next().expect("moments as long as the values")))
        .collect();
    let parts = values.runs(RUN).into_par_iter().zip(grads.par_chunks(RUN)).zip(runs);
    parts.for_each(|((mut values, grads), mut runs)| {
        for (block, grads) in grads.chunks(BLOCK).enumerate() {
            let mut numbers = [[0.0; BLOCK]; N];
            for (numbers, run) in numbers.iter_mut().zip(&runs) {
                run.load(block, &mut numbers[..grads.len()]);
            }
            values.change(block, grads.len(), |values| step(rule, values, grads, &mut numbers));
            for (numbers, run) in numbers.iter().zip(&mut runs) {
                run.store(block, &numbers[..grads.len()]);
            }
        }
    });
}
