//! Loops over rows, shared between cores.
//!
//! How work is cut depends on sizes only, never on the number of threads, and no sum crosses a cut: results are the
//! same bits on every machine and every run.

use rayon::prelude::*;

/// Numbers a task should have before it is worth handing to another core.
const GRAIN: usize = 1 << 14;

/// Rows of `width` that make up one task.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Calls `each` with the index and numbers of every row of `out`.
pub(crate) fn rows<N: Send>(out: &mut [N], width: usize, each: impl Fn(usize, &mut [N]) + Sync) {
    let per_task = rows_per_task(width);
    out.par_chunks_mut(per_task * width).enumerate().for_each(|(task, chunk)| {
        for (i, row) in chunk.chunks_exact_mut(width).enumerate() {
            each(task * per_task + i, row);
        }
    });
}

/// Calls `each` with matching pieces of `out` and `inp`, which are equally long.
pub(crate) fn pieces<N: Send, M: Sync>(
    out: &mut [N],
    inp: &[M],
    each: impl Fn(&mut [N], &[M]) + Sync,
) {
    out.par_chunks_mut(GRAIN).zip(inp.par_chunks(GRAIN)).for_each(|(out, inp)| each(out, inp));
}
