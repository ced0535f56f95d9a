//! The exponential, written so that the compiler can run it on several numbers at once; `f32::exp` is a library
//! call and dominates softmax.

/// `eˣ` to about 1 ulp of f32 for x ≤ 88; below −87 the result is 0.
///
/// Cephes' `expf`: x = n·ln 2 + f with |f| ≤ ln 2 / 2, a polynomial for eᶠ, and n moved into the exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves the nearest whole number in the low bits
    let clamped = x.clamp(-87.0, 88.0);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let f = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let poly = 1.987_569_1e-4;
    let poly = poly * f + 1.398_199_9e-3;
    let poly = poly * f + 8.333_452e-3;
    let poly = poly * f + 4.166_579_6e-2;
    let poly = poly * f + 1.666_666_5e-1;
    let poly = poly * f + 0.5;
    let poly = poly * f * f + f + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { poly * power }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn it_is_the_exponential_to_two_ulp() {
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 2.5e-7, "exp({x}) is {} instead of {exact}", exp(x));
        }
        assert_eq!((exp(0.0), exp(-200.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }
}
