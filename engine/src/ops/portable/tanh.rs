//! The hyperbolic tangent on several numbers at once, and the soft cap made of it.

use candle_core::Tensor;

use super::exp::exp;
use super::parallel;
use crate::Result;
use crate::ops::slices::{edit, view};
use crate::ops::wide::wide;

/// `tanh x` to about 2 ulp of f32: Cephes' polynomial near zero, where the quotient would cancel, and
/// `1 − 2 / (e²ˣ + 1)` elsewhere.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let poly = -5.704_988_7e-3;
    let poly = poly * z + 2.063_909e-2;
    let poly = poly * z - 5.373_971_6e-2;
    let poly = poly * z + 1.333_144_2e-1;
    let poly = poly * z - 3.333_328e-1;
    let near = poly * z * x + x;
    let size = x.abs();
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// `c · tanh(x / c)`.
#[inline(always)]
pub(crate) fn capped(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// The slope of [`capped`], from its value.
#[inline(always)]
pub(crate) fn slope(capped: f32, cap: f32) -> f32 {
    let t = capped / cap;
    1.0 - t * t
}

wide! {
    fn cap_all(row: &mut [f32], cap: f32) {
        row.iter_mut().for_each(|x| *x = capped(*x, cap));
    }
}

wide! {
    fn slope_all(dy: &mut [f32], y: &[f32], cap: f32) {
        dy.iter_mut().zip(y).for_each(|(dy, y)| *dy *= slope(*y, cap));
    }
}

pub(crate) fn soft_cap(x: &Tensor, cap: f32) -> Result<()> {
    let (_, width) = x.dims2()?;
    edit(x, |x| parallel::rows(x, width, |_, row| cap_all(row, cap)))
}

pub(crate) fn soft_cap_backward(dy: &Tensor, y: &Tensor, cap: f32) -> Result<()> {
    let y = view(y)?;
    let y = &*y;
    edit(dy, |dy| parallel::pieces(dy, y, |dy, y| slope_all(dy, y, cap)))
}

#[cfg(test)]
mod tests {
    use super::tanh;

    #[test]
    fn it_is_the_tangent_to_few_ulp() {
        for i in -12_000..12_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - exact).abs();
            assert!(error <= 4e-7 * exact.abs(), "tanh({x}) is {} instead of {exact}", tanh(x));
        }
        assert_eq!((tanh(0.0), tanh(1e30), tanh(f32::NEG_INFINITY)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }
}
