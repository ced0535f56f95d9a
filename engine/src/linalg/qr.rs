//! An orthonormal basis of a matrix's columns.

use candle_core::{DType, Device, Tensor};

use super::eigen::dot;
use crate::Result;

/// The first `rank` columns of Q and rows of R in `Q·R = matrix`.
#[derive(Clone, Debug)]
pub struct Qr {
    /// `[m, rank]`, columns of length 1 and upright on each other.
    pub q: Tensor,
    /// `[rank, n]`, upper triangular.
    pub r: Tensor,
}

/// Householder's QR of `matrix` `[m, n]`, cut to `rank` ≤ min(m, n): what OLoRA begins from (arXiv 2406.01775). Signs
/// are LAPACK's, and so PyTorch's. f32 in, f32 out.
///
/// # Errors
/// When `matrix` has not two dimensions.
pub fn qr(matrix: &Tensor, rank: usize) -> Result<Qr> {
    let (q, r) = qr_f64(&matrix.to_dtype(DType::F64)?, rank)?;
    Ok(Qr { q: q.to_dtype(DType::F32)?, r: r.to_dtype(DType::F32)? })
}

/// Q `[m, rank]` and R `[rank, n]`, f64; a rank beyond min(m, n) is cut to that.
pub(super) fn qr_f64(matrix: &Tensor, rank: usize) -> Result<(Tensor, Tensor)> {
    let (m, n) = matrix.dims2()?;
    let rank = rank.min(m).min(n);
    let mut columns: Vec<Vec<f64>> = matrix.t()?.to_vec2()?;
    let mut reflectors = Vec::with_capacity(rank);
    for k in 0..rank {
        let reflector = Reflector::of(&columns[k][k..]);
        for column in &mut columns[k..] {
            reflector.apply(&mut column[k..]);
        }
        reflectors.push(reflector);
    }
    let basis = (0..rank).flat_map(|j| {
        let mut column = vec![0.0; m];
        column[j] = 1.0;
        for (k, reflector) in reflectors.iter().enumerate().rev() {
            reflector.apply(&mut column[k..]);
        }
        column
    });
    let q = Tensor::from_vec(basis.collect(), (rank, m), &Device::Cpu)?.t()?.contiguous()?;
    let upper = columns
        .iter()
        .enumerate()
        .flat_map(|(j, column)| (0..rank).map(move |i| if i <= j { column[i] } else { 0.0 }));
    let r = Tensor::from_vec(upper.collect(), (n, rank), &Device::Cpu)?.t()?.contiguous()?;
    Ok((q, r))
}

/// `I − factor · v vᵀ`, which turns one vector into a multiple of the first axis.
struct Reflector {
    v: Vec<f64>,
    factor: f64,
}

impl Reflector {
    fn of(x: &[f64]) -> Self {
        let mut v = x.to_vec();
        // LAPACK leaves a vector alone that lies on the axis already, whatever its sign.
        if dot(&x[1..], &x[1..]) == 0.0 {
            return Self { v, factor: 0.0 };
        }
        let norm = dot(x, x).sqrt();
        v[0] += norm.copysign(x[0]);
        let factor = 2.0 / dot(&v, &v);
        Self { v, factor }
    }

    fn apply(&self, x: &mut [f64]) {
        if self.factor == 0.0 {
            return;
        }
        let share = self.factor * dot(&self.v, x);
        for (x, v) in x.iter_mut().zip(&self.v) {
            *x -= share * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::svd::tests::{apart, random};

    #[test]
    fn the_factors_multiply_to_the_matrix() {
        for (m, n) in [(1, 1), (5, 3), (3, 5), (40, 40), (64, 160)] {
            let matrix = random(m, n, 7);
            let full = qr(&matrix, m.min(n)).unwrap();
            assert!(apart(&full.q.matmul(&full.r).unwrap(), &matrix) < 1e-5, "{m} {n}");
            let gram = full.q.t().unwrap().matmul(&full.q).unwrap();
            let one = Tensor::eye(m.min(n), DType::F32, &Device::Cpu).unwrap();
            assert!(apart(&gram, &one) < 1e-6);
            let cut = qr(&matrix, 1).unwrap();
            assert_eq!(cut.q.dims(), [m, 1]);
            assert_eq!(apart(&cut.r, &full.r.narrow(0, 0, 1).unwrap()), 0.0);
        }
    }

    #[test]
    fn signs_are_those_of_lapack() {
        // By hand: the first column turns to the negative axis, a column on its axis stays.
        let matrix = Tensor::new(&[[3f32, 0.0], [4.0, 0.0]], &Device::Cpu).unwrap();
        let it = qr(&matrix, 2).unwrap();
        let r = it.r.to_vec2::<f32>().unwrap();
        assert!((r[0][0] + 5.0).abs() < 1e-6, "{r:?}");
        let diagonal = Tensor::new(&[[2f32, 0.0], [0.0, -3.0]], &Device::Cpu).unwrap();
        assert_eq!(apart(&qr(&diagonal, 2).unwrap().r, &diagonal), 0.0);
    }
}
