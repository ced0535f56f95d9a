//! Eigenvalues and eigenvectors of a symmetric matrix.
//!
//! Householder reflections make it tridiagonal, implicit QL steps with Wilkinson's shift make that diagonal (Golub and
//! Van Loan, Matrix Computations, §8.3; Bowdler, Martin, Reinsch and Wilkinson, 1968).

use rayon::prelude::*;

use crate::{EngineError, Result};

/// QL steps an eigenvalue may take; two or three are usual.
const STEPS_MAX: usize = 64;

/// Below this size threads cost more than they save.
const PARALLEL_MIN: usize = 128;

/// An eigenvalue with its eigenvector of length 1.
pub(super) type Pair = (f64, Vec<f64>);

/// The `count` largest eigenvalues of the symmetric `n × n` matrix `a` (row-major), largest first.
pub(super) fn largest(mut a: Vec<f64>, n: usize, count: usize) -> Result<Vec<Pair>> {
    if let Some(bad) = a.iter().find(|x| !x.is_finite()) {
        return Err(EngineError::input(format!("singular values: the matrix holds {bad}")));
    }
    let mut it = tridiagonal(&mut a, n);
    let mut vectors = identity(n);
    it.diagonalise(&mut vectors)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| it.diagonal[*j].total_cmp(&it.diagonal[*i]));
    order.truncate(count);
    Ok(order
        .into_par_iter()
        .map(|i| {
            let mut vector = vectors[i].clone();
            for (at, reflector) in it.reflectors.iter().enumerate().rev() {
                reflect(&mut vector[at + 1..], reflector);
            }
            (it.diagonal[i], vector)
        })
        .collect())
}

fn identity(n: usize) -> Vec<Vec<f64>> {
    let row = |i| (0..n).map(|j| if i == j { 1.0 } else { 0.0 }).collect();
    (0..n).map(row).collect()
}

/// `x ← (I − 2 v vᵀ) x` for a `v` of length 1; a zero `v` changes nothing.
fn reflect(x: &mut [f64], v: &[f64]) {
    let twice = 2.0 * dot(x, v);
    for (x, v) in x.iter_mut().zip(v) {
        *x -= twice * v;
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four sums, so that the compiler may use vector registers; always the same four.
    let mut sums = [0.0; 4];
    let (a, a_rest) = a.as_chunks::<4>();
    let (b, b_rest) = b.as_chunks::<4>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..4 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// A tridiagonal matrix and the reflections that led to it.
struct Tridiagonal {
    diagonal: Vec<f64>,
    /// One shorter than the diagonal.
    beside: Vec<f64>,
    /// Reflection `i` acts on the coordinates after `i`.
    reflectors: Vec<Vec<f64>>,
}

fn tridiagonal(a: &mut [f64], n: usize) -> Tridiagonal {
    let mut it = Tridiagonal { diagonal: vec![], beside: vec![], reflectors: vec![] };
    for k in 0..n {
        it.diagonal.push(a[k * n + k]);
        if k + 1 == n {
            break;
        }
        let x = &a[k * n + k + 1..(k + 1) * n];
        let norm = dot(x, x).sqrt();
        let turned = if x[0] > 0.0 { -norm } else { norm };
        it.beside.push(turned);
        let mut v = x.to_vec();
        v[0] -= turned;
        let length = dot(&v, &v).sqrt();
        if length > 0.0 {
            v.iter_mut().for_each(|v| *v /= length);
            two_sided(&mut a[(k + 1) * n..], n, k + 1, &v);
        }
        it.reflectors.push(v);
    }
    it
}

/// `A ← H A H` with `H = I − 2 v vᵀ` for the trailing block that begins in column `from`; `rows` are the rows of that
/// block at full width `n`.
fn two_sided(rows: &mut [f64], n: usize, from: usize, v: &[f64]) {
    let parallel = v.len() >= PARALLEL_MIN;
    let product = |row: &[f64]| 2.0 * dot(&row[from..], v);
    let mut w: Vec<f64> = if parallel {
        rows.par_chunks(n).map(product).collect()
    } else {
        rows.chunks(n).map(product).collect()
    };
    let share = dot(&w, v);
    for (w, v) in w.iter_mut().zip(v) {
        *w -= share * v;
    }
    let update = |(i, row): (usize, &mut [f64])| {
        let (vi, wi) = (v[i], w[i]);
        for ((x, v), w) in row[from..].iter_mut().zip(v).zip(&w) {
            *x -= vi * w + wi * v;
        }
    };
    if parallel {
        rows.par_chunks_mut(n).enumerate().for_each(update);
    } else {
        rows.chunks_mut(n).enumerate().for_each(update);
    }
}

impl Tridiagonal {
    /// Leaves the eigenvalues on the diagonal; row `i` of `vectors`, the identity at first, becomes the eigenvector of
    /// value `i`.
    fn diagonalise(&mut self, vectors: &mut [Vec<f64>]) -> Result<()> {
        let n = self.diagonal.len();
        let size = |x: f64, y: &f64| x.max(y.abs());
        let scale = self.diagonal.iter().chain(&self.beside).fold(0.0, size);
        let negligible = f64::EPSILON * scale;
        for first in 0..n {
            for step in 0.. {
                // The block that still hangs together ends before the first negligible neighbour.
                let hangs = self.beside[first.min(self.beside.len())..]
                    .iter()
                    .take_while(|e| e.abs() > negligible)
                    .count();
                if hangs == 0 {
                    break;
                }
                if step == STEPS_MAX {
                    return Err(EngineError::input(format!(
                        "singular values: {first} of {n} found, the next did not settle in {STEPS_MAX} steps"
                    )));
                }
                self.step(first, first + hangs, vectors);
            }
        }
        Ok(())
    }

    /// One implicit QL step on rows `first..=last`.
    fn step(&mut self, first: usize, last: usize, vectors: &mut [Vec<f64>]) {
        let (d, e) = (&mut self.diagonal, &mut self.beside);
        let half = (d[first + 1] - d[first]) / (2.0 * e[first]);
        let root = half.hypot(1.0).copysign(half);
        // The bulge that is chased upwards, and what earlier rotations still owe to the diagonal.
        let mut bulge = d[last] - d[first] + e[first] / (half + root);
        let (mut sin, mut cos, mut owed) = (1.0, 1.0, 0.0);
        for i in (first..last).rev() {
            let (outer, inner) = (sin * e[i], cos * e[i]);
            let length = outer.hypot(bulge);
            if i + 1 < last {
                e[i + 1] = length;
            }
            if length == 0.0 {
                // The block fell apart here.
                d[i + 1] -= owed;
                if last < e.len() {
                    e[last] = 0.0;
                }
                return;
            }
            (sin, cos) = (outer / length, bulge / length);
            let lowered = d[i + 1] - owed;
            let turned = (d[i] - lowered) * sin + 2.0 * cos * inner;
            owed = sin * turned;
            d[i + 1] = lowered + owed;
            bulge = cos * turned - inner;
            rotate(vectors, i, sin, cos);
        }
        d[first] -= owed;
        e[first] = bulge;
    }
}

fn rotate(vectors: &mut [Vec<f64>], i: usize, sin: f64, cos: f64) {
    let (head, tail) = vectors.split_at_mut(i + 1);
    for (low, high) in head[i].iter_mut().zip(&mut tail[0]) {
        let (l, h) = (*low, *high);
        *high = sin * l + cos * h;
        *low = cos * l - sin * h;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &[f64], n: usize) {
        let scale = a.iter().fold(0.0f64, |x, y| x.max(y.abs())).max(1.0) * n as f64;
        let pairs = largest(a.to_vec(), n, n).unwrap();
        assert_eq!(pairs.len(), n);
        for (i, (value, vector)) in pairs.iter().enumerate() {
            for (row, x) in a.chunks(n).zip(vector) {
                assert!((dot(row, vector) - value * x).abs() < 1e-13 * scale, "A v ≠ λ v");
            }
            for (j, (other, w)) in pairs.iter().enumerate() {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot(vector, w) - expected).abs() < 1e-12, "{i} {j}");
                assert!(j <= i || other <= value, "not in order");
            }
        }
    }

    #[test]
    fn eigenvectors_are_turned_by_nothing_and_stand_upright() {
        check(&[3.0], 1);
        check(&[2.0, -1.0, -1.0, 2.0], 2);
        check(&[0.0; 9], 3);
        // Repeated values, and a block that is apart from the beginning.
        check(&identity(7).concat(), 7);
        check(&[1.0, 0.0, 0.0, 0.0, 5.0, 1.0, 0.0, 1.0, 5.0], 3);
        for n in [3, 10, 67, 150] {
            let at =
                |i: usize, j: usize| (((i * j + 3 * (i + j)) * 7919 % 1013) as f64) / 500.0 - 1.0;
            let a: Vec<f64> = (0..n * n).map(|k| at(k / n, k % n)).collect();
            check(&a, n);
        }
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        assert!(largest(vec![1.0, f64::NAN, f64::NAN, 1.0], 2, 1).is_err());
    }
}
