//! Loops over rows, shared between cores.
//!
//! How work is cut depends on sizes only, never on the number of threads, and no sum crosses a cut: results are the
//! same bits on every machine and every run.

use rayon::prelude::*;

/// Numbers a task should have before it is worth handing to another core.
const GRAIN: usize = 1 << 14;

/// Rows of `width` that make up one task.
pub(super) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Calls `each` with the index and numbers of every row of `out`.
pub(super) fn rows(out: &mut [f32], width: usize, each: impl Fn(usize, &mut [f32]) + Sync) {
    let per_task = rows_per_task(width);
    out.par_chunks_mut(per_task * width).enumerate().for_each(|(task, chunk)| {
        for (i, row) in chunk.chunks_exact_mut(width).enumerate() {
            each(task * per_task + i, row);
        }
    });
}

/// Calls `each` with matching pieces of `out` and `inp`, which are equally long.
pub(super) fn pieces(out: &mut [f32], inp: &[f32], each: impl Fn(&mut [f32], &[f32]) + Sync) {
    out.par_chunks_mut(GRAIN).zip(inp.par_chunks(GRAIN)).for_each(|(out, inp)| each(out, inp));
}
