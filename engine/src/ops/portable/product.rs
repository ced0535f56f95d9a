//! Products by the crate that candle's `matmul` uses, which may also write into a part of their result or add to it.
//!
//! So a weight is multiplied piece by piece, each piece made just before and forgotten after. And candle asks the system
//! for the number of its cores at every product, which costs more than a small one.

use std::sync::OnceLock;

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::{FEW, parallel, rows::dots};
use crate::ops::slices::{edit, tensor, view, view_matrix, written};
use crate::{EngineError, Result};

/// Numbers of a matrix: from one row to the next, and from one column to the next.
#[derive(Clone, Copy)]
struct Strides {
    row: usize,
    column: usize,
}

impl Strides {
    /// As [`view_matrix`] gives them.
    const fn of([row, column]: [usize; 2]) -> Self {
        Self { row, column }
    }

    const fn rows_of(width: usize) -> Self {
        Self { row: width, column: 1 }
    }

    /// Numbers a matrix of this many rows and columns reaches over.
    fn reach(self, rows: usize, columns: usize) -> usize {
        if rows == 0 || columns == 0 {
            return 0;
        }
        (rows - 1) * self.row + (columns - 1) * self.column + 1
    }
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    All,
    /// Where others are busy with products beside it.
    One,
}

/// `lhs · rhs`, matrices that may be parts or transposes of others.
pub(super) fn matmul(lhs: &Tensor, rhs: &Tensor, cores: Cores) -> Result<Tensor> {
    let ((m, k), (inner, n)) = (lhs.dims2()?, rhs.dims2()?);
    if k != inner {
        let shapes = (lhs.dims(), rhs.dims());
        return Err(EngineError::input(format!("a product of {shapes:?}")));
    }
    let ((lhs, lhs_strides), (rhs, rhs_strides)) = (view_matrix(lhs)?, view_matrix(rhs)?);
    let of = |out: &mut [f32]| {
        product(
            (m, n, k),
            (out, Strides::rows_of(n)),
            (&lhs, Strides::of(lhs_strides)),
            (&rhs, Strides::of(rhs_strides)),
            false,
            cores,
        );
    };
    let (out, ()) = written(m * n, of);
    tensor(out, &[m, n])
}

/// `sum += lhs · rhs`, as [`matmul`]; `sum` is contiguous.
pub(super) fn add_matmul(sum: &Tensor, lhs: &Tensor, rhs: &Tensor) -> Result<()> {
    let ((m, k), (inner, n)) = (lhs.dims2()?, rhs.dims2()?);
    fits(sum, &[m, n], k == inner)?;
    let ((lhs, lhs_strides), (rhs, rhs_strides)) = (view_matrix(lhs)?, view_matrix(rhs)?);
    edit(sum, |sum| {
        product(
            (m, n, k),
            (sum, Strides::rows_of(n)),
            (&lhs, Strides::of(lhs_strides)),
            (&rhs, Strides::of(rhs_strides)),
            true,
            Cores::All,
        );
    })
}

/// `y[:, from..from + rows of w] = x · wᵀ`, as [`super::rows::project_few`] for a handful of tokens.
pub(super) fn project_into(y: &Tensor, from: usize, x: &Tensor, w: &Tensor) -> Result<()> {
    let ((tokens, inner), (rows, _), (_, width)) = (x.dims2()?, w.dims2()?, y.dims2()?);
    fits(y, &[tokens, width], from + rows <= width)?;
    fits(w, &[rows, inner], true)?;
    let (x, w) = (view(x)?, view(w)?);
    let (x, w) = (&*x, &*w);
    edit(y, |y| {
        if tokens < FEW {
            let per_task = parallel::rows_per_task(inner);
            for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact_mut(width)) {
                let y = y[from..from + rows].par_chunks_mut(per_task);
                y.zip(w.par_chunks(per_task * inner)).for_each(|(y, w)| dots(y, x, w));
            }
            return;
        }
        let transposed = Strides { row: 1, column: inner };
        product(
            (tokens, rows, inner),
            (&mut y[from..], Strides::rows_of(width)),
            (x, Strides::rows_of(inner)),
            (w, transposed),
            false,
            Cores::All,
        );
    })
}

/// `dx += dy[:, from..from + rows of w] · w`.
pub(super) fn add_project_dx(dx: &Tensor, dy: &Tensor, from: usize, w: &Tensor) -> Result<()> {
    let ((tokens, width), (rows, inner)) = (dy.dims2()?, w.dims2()?);
    fits(dy, &[tokens, width], from + rows <= width)?;
    fits(dx, &[tokens, inner], true)?;
    let (dy, w) = (view(dy)?, view(w)?);
    let (dy, w) = (&*dy, &*w);
    edit(dx, |dx| {
        product(
            (tokens, inner, rows),
            (dx, Strides::rows_of(inner)),
            (&dy[from..], Strides::rows_of(width)),
            (w, Strides::rows_of(inner)),
            true,
            Cores::All,
        );
    })
}

fn fits(tensor: &Tensor, shape: &[usize], columns: bool) -> Result<()> {
    if columns && tensor.dims() == shape {
        return Ok(());
    }
    let found = tensor.dims();
    Err(EngineError::input(format!("a tensor of {found:?} in a product that wants {shape:?}")))
}

/// How many threads candle would use.
fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(candle_core::utils::get_num_threads)
}

/// `out = lhs · rhs`, or `out += lhs · rhs`; `[m, k]` and `[k, n]`. Threads and order of sums are candle's.
fn product(
    (m, n, k): (usize, usize, usize),
    (out, out_strides): (&mut [f32], Strides),
    (lhs, lhs_strides): (&[f32], Strides),
    (rhs, rhs_strides): (&[f32], Strides),
    add: bool,
    cores: Cores,
) {
    if k == 0 && !add {
        // Nothing would be written.
        out.fill(0.0);
    }
    assert!(out.len() >= out_strides.reach(m, n));
    assert!(lhs.len() >= lhs_strides.reach(m, k));
    assert!(rhs.len() >= rhs_strides.reach(k, n));
    let parallelism = match threads() {
        2.. if cores == Cores::All => Parallelism::Rayon(threads()),
        _ => Parallelism::None,
    };
    #[expect(unsafe_code, reason = "gemm takes raw pointers")]
    // SAFETY: just asserted to lie in their slices; `out` is borrowed alone, and rows of it do not overlap because
    // both callers' rows are as wide as their stride or narrower.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            out_strides.column as isize,
            out_strides.row as isize,
            add,
            lhs.as_ptr(),
            lhs_strides.column as isize,
            lhs_strides.row as isize,
            rhs.as_ptr(),
            rhs_strides.column as isize,
            rhs_strides.row as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
