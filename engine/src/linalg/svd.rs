//! The largest singular values of a matrix, with their vectors.

use candle_core::{DType, Device, Tensor};

use super::eigen;
use super::qr::qr_f64;
use crate::Result;

/// `rank` triples of a singular value decomposition, largest value first.
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left vectors `[m, rank]`, f32.
    pub u: Tensor,
    /// Values `[rank]`, f32, never negative.
    pub s: Tensor,
    /// Right vectors `[rank, n]`, f32.
    pub vt: Tensor,
}

impl Svd {
    /// `U·diag(S)` `[m, rank]`, the left factor of the product closest to the matrix.
    ///
    /// # Errors
    /// A tensor operation that failed.
    pub fn us(&self) -> Result<Tensor> {
        Ok(self.u.broadcast_mul(&self.s)?)
    }

    fn of(u: &Tensor, s: &Tensor, vt: &Tensor) -> Result<Self> {
        let f32 = |x: &Tensor| -> Result<Tensor> { Ok(x.to_dtype(DType::F32)?.contiguous()?) };
        Ok(Self { u: f32(u)?, s: f32(s)?, vt: f32(vt)? })
    }
}

/// The `rank` largest singular triples of `matrix` `[m, n]`, f32: what PiSSA begins from (arXiv 2404.02948).
///
/// The signs of a pair of vectors are free, and vectors of equal values may be turned among themselves; `U·diag(S)·Vᵀ`
/// is not. A triple whose value is zero to f64's precision, or one beyond min(m, n), has zero vectors.
///
/// Takes about 5·min(m, n)³ operations and 24·min(m, n)² bytes.
///
/// # Errors
/// When `matrix` has not two dimensions or holds NaN or infinity.
pub fn svd(matrix: &Tensor, rank: usize) -> Result<Svd> {
    let (u, s, vt) = triples(&matrix.to_dtype(DType::F64)?, rank)?;
    Svd::of(&u, &s, &vt)
}

/// As [`svd`] of `b·a` with `b` `[m, k]` and `a` `[k, n]`, in time that grows with `k²` and never forming the product:
/// how adapters are cut to a rank.
///
/// # Errors
/// As [`svd`], or when the sizes do not meet.
pub fn svd_of_product(b: &Tensor, a: &Tensor, rank: usize) -> Result<Svd> {
    let (b, a) = (b.to_dtype(DType::F64)?, a.to_dtype(DType::F64)?);
    let k = b.dim(1)?;
    if k >= b.dim(0)?.min(a.dim(1)?) {
        let (u, s, vt) = triples(&b.matmul(&a)?, rank)?;
        return Svd::of(&u, &s, &vt);
    }
    let (q_left, r_left) = qr_f64(&b, k)?;
    let (q_right, r_right) = qr_f64(&a.t()?.contiguous()?, k)?;
    let (u, s, vt) = triples(&r_left.matmul(&r_right.t()?)?, rank)?;
    Svd::of(&q_left.matmul(&u)?, &s, &vt.matmul(&q_right.t()?)?)
}

/// U, S and Vᵀ in f64.
fn triples(matrix: &Tensor, rank: usize) -> Result<(Tensor, Tensor, Tensor)> {
    let (m, n) = matrix.dims2()?;
    if n > m {
        let (u, s, vt) = triples(&matrix.t()?.contiguous()?, rank)?;
        return Ok((vt.t()?, s, u.t()?));
    }
    let gram = matrix.t()?.matmul(matrix)?.flatten_all()?.to_vec1()?;
    let pairs = eigen::largest(gram, n, rank)?;
    let floor = pairs.first().map_or(0.0, |(value, _)| value.max(0.0).sqrt()) * 1e-8;
    let mut right: Vec<f64> = pairs.into_iter().flat_map(|(_, vector)| vector).collect();
    right.resize(rank * n, 0.0);
    let v = Tensor::from_vec(right, (rank, n), &Device::Cpu)?.t()?;
    // The length of A·v is the value to full precision, where the root of an eigenvalue has half of it.
    let mut left: Vec<Vec<f64>> = matrix.matmul(&v.contiguous()?)?.t()?.to_vec2()?;
    let mut keep = Vec::with_capacity(rank);
    let mut values = Vec::with_capacity(rank);
    for vector in &mut left {
        let length = eigen::dot(vector, vector).sqrt();
        let is_value = length > floor && length > 0.0;
        vector.iter_mut().for_each(|x| *x = if is_value { *x / length } else { 0.0 });
        keep.push(f64::from(u8::from(is_value)));
        values.push(if is_value { length } else { 0.0 });
    }
    let u = Tensor::from_vec(left.concat(), (rank, m), &Device::Cpu)?.t()?;
    let keep = Tensor::from_vec(keep, (rank, 1), &Device::Cpu)?;
    let vt = v.t()?.broadcast_mul(&keep)?;
    Ok((u.contiguous()?, Tensor::new(values, &Device::Cpu)?, vt.contiguous()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    pub(in crate::linalg) fn random(m: usize, n: usize, seed: u64) -> Tensor {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut draw = || (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
        Tensor::from_vec((0..m * n).map(|_| draw()).collect(), (m, n), &Device::Cpu).unwrap()
    }

    pub(in crate::linalg) fn apart(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    fn product(it: &Svd) -> Tensor {
        it.us().unwrap().matmul(&it.vt).unwrap()
    }

    #[test]
    fn all_triples_give_the_matrix_back() {
        for (m, n) in [(1, 1), (5, 3), (3, 5), (64, 64), (160, 64), (64, 160)] {
            let matrix = random(m, n, 1);
            let it = svd(&matrix, m.min(n)).unwrap();
            assert!(apart(&product(&it), &matrix) < 1e-5, "{m} × {n}");
            for gram in [it.u.t().unwrap().matmul(&it.u), it.vt.matmul(&it.vt.t().unwrap())] {
                let one = Tensor::eye(m.min(n), DType::F32, &Device::Cpu).unwrap();
                assert!(apart(&gram.unwrap(), &one) < 1e-5, "{m} × {n}");
            }
            let s = it.s.to_vec1::<f32>().unwrap();
            assert!(s.is_sorted_by(|a, b| a >= b) && *s.last().unwrap() > 0.0, "{s:?}");
        }
    }

    /// Eckart and Young: what the cut leaves out is as large as the values that were cut.
    #[test]
    fn the_cut_is_the_closest_matrix_of_its_rank() {
        let matrix = random(48, 90, 2);
        let all = svd(&matrix, 48).unwrap().s.to_vec1::<f32>().unwrap();
        for rank in [1, 8, 47] {
            let it = svd(&matrix, rank).unwrap();
            let left = (product(&it) - &matrix).unwrap().sqr().unwrap().sum_all().unwrap();
            let left = left.to_scalar::<f32>().unwrap().sqrt();
            let expected = all[rank..].iter().map(|s| s * s).sum::<f32>().sqrt();
            assert!((left / expected - 1.0).abs() < 1e-4, "{rank}: {left} {expected}");
        }
    }

    #[test]
    fn factors_are_cut_as_their_product_is() {
        for (m, k, n) in [(40, 6, 70), (70, 6, 40), (8, 12, 30)] {
            let (b, a) = (random(m, k, 3), random(k, n, 4));
            let whole = b.matmul(&a).unwrap();
            for rank in [1, 4, k.min(m)] {
                let (of_factors, of_product) =
                    (svd_of_product(&b, &a, rank).unwrap(), svd(&whole, rank).unwrap());
                assert!(apart(&product(&of_factors), &product(&of_product)) < 1e-5);
                assert!(apart(&of_factors.s, &of_product.s) < 1e-5);
            }
        }
    }

    #[test]
    fn beyond_the_rank_there_is_nothing() {
        let matrix = random(12, 2, 5).matmul(&random(2, 9, 6)).unwrap();
        let it = svd(&matrix, 11).unwrap();
        assert_eq!((it.u.dims(), it.vt.dims()), ([12, 11].as_slice(), [11, 9].as_slice()));
        assert!(apart(&product(&it), &matrix) < 1e-6);
        let s = it.s.to_vec1::<f32>().unwrap();
        assert!(s[1] > 0.0 && s[2..].iter().all(|s| *s < 1e-6), "{s:?}");
        let zero = Tensor::zeros((4, 6), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(apart(&product(&svd(&zero, 2).unwrap()), &zero), 0.0);
    }

    /// The size of a real projection; printed, since whoever initialises a whole model waits for it.
    #[test]
    fn a_real_projection_takes_moments() {
        let matrix = random(576, 1536, 8);
        let begun = std::time::Instant::now();
        let it = svd(&matrix, 16).unwrap();
        eprintln!("576 × 1536, rank 16: {:.2} s", begun.elapsed().as_secs_f64());
        // A·v = s·u, for every triple.
        let turned = matrix.matmul(&it.vt.t().unwrap()).unwrap();
        assert!(apart(&turned, &it.us().unwrap()) < 1e-4);
    }
}
