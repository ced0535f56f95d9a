//! Few numbers that stand for all others in [−1, 1], and the way to the nearest.

use std::sync::LazyLock;

/// `N` numbers, in the order of their codes.
#[derive(Debug)]
pub struct Codebook<const N: usize> {
    values: [f32; N],
    /// Codes ordered by what they stand for, and the middles between neighbours.
    by_value: [u8; N],
    pub(crate) middles: Vec<f32>,
}

impl<const N: usize> Codebook<N> {
    fn new(values: [f32; N]) -> Self {
        let mut by_value: [u8; N] = std::array::from_fn(|code| code as u8);
        // A stable sort, so that FP4's two zeros stand in bitsandbytes' order.
        by_value.sort_by(|a, b| values[usize::from(*a)].total_cmp(&values[usize::from(*b)]));
        let sorted = by_value.map(|code| values[usize::from(code)]);
        let middles = sorted.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        Self { values, by_value, middles }
    }

    /// What each code stands for.
    #[must_use]
    pub fn values(&self) -> &[f32; N] {
        &self.values
    }

    /// The code nearest to `x`; halfway between two, the lower one's.
    #[must_use]
    pub fn nearest(&self, x: f32) -> u8 {
        self.by_value[self.middles.partition_point(|middle| *middle < x)]
    }
}

/// NF4: quantiles of the normal distribution, with an exact zero (QLoRA, arXiv 2305.14314 appendix E).
#[must_use]
pub fn nf4() -> &'static Codebook<16> {
    static NF4: LazyLock<Codebook<16>> = LazyLock::new(|| {
        Codebook::new([
            -1.0,
            -0.696_192_8,
            -0.525_073_05,
            -0.394_917_5,
            -0.284_441_38,
            -0.184_773_43,
            -0.091_050_036,
            0.0,
            0.079_580_3,
            0.160_930_2,
            0.246_112_3,
            0.337_915_24,
            0.440_709_83,
            0.562_617,
            0.722_956_84,
            1.0,
        ])
    });
    &NF4
}

/// FP4: a sign, two bits of exponent, one of mantissa, divided by the largest (12). Two codes are zero.
#[must_use]
pub fn fp4() -> &'static Codebook<16> {
    static FP4: LazyLock<Codebook<16>> = LazyLock::new(|| {
        let magnitudes = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0].map(|x: f32| x / 12.0);
        Codebook::new(std::array::from_fn(|code| match code {
            0..8 => magnitudes[code],
            8 => 0.0,
            _ => -magnitudes[code - 8],
        }))
    });
    &FP4
}

/// The signed dynamic map of 8 bits: seven decades, each cut twice as fine as the one below, so that small numbers
/// keep their relative precision (arXiv 2110.02861 §2.2; bitsandbytes' `create_dynamic_map`).
#[must_use]
pub fn dynamic8() -> &'static Codebook<256> {
    static DYNAMIC8: LazyLock<Codebook<256>> = LazyLock::new(|| Codebook::new(dynamic(true)));
    &DYNAMIC8
}

/// As [`dynamic8`], from 0 to 1 and twice as fine.
#[must_use]
pub fn dynamic8_unsigned() -> &'static Codebook<256> {
    static DYNAMIC8: LazyLock<Codebook<256>> = LazyLock::new(|| Codebook::new(dynamic(false)));
    &DYNAMIC8
}

fn dynamic(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let scale = 10.0_f64.powi(decade - 6) as f32;
        let count = if signed { 1 << decade } else { 2 << decade };
        for pair in linspace(0.1, 1.0, count + 1).windows(2) {
            let value = scale * ((pair[0] + pair[1]) / 2.0);
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    std::array::from_fn(|code| values[code])
}

/// `count` numbers from `from` to `to`, each half reckoned from its own end with one rounding, as PyTorch does.
fn linspace(from: f32, to: f32, count: usize) -> Vec<f32> {
    let step = (to - from) / (count - 1) as f32;
    let at = |i: usize| {
        if i < count / 2 {
            step.mul_add(i as f32, from)
        } else {
            (-step).mul_add((count - 1 - i) as f32, to)
        }
    };
    (0..count).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_a_book_is_nearest_to_itself() {
        for (code, value) in (0..=255).zip(dynamic8().values()) {
            assert_eq!(dynamic8().nearest(*value), code);
        }
        for (code, value) in (0..16).zip(nf4().values()) {
            assert_eq!(nf4().nearest(*value), code);
        }
        for value in fp4().values() {
            assert_eq!(fp4().values()[usize::from(fp4().nearest(*value))], *value);
        }
    }

    #[test]
    fn halfway_goes_to_the_lower() {
        let (a, b) = (nf4().values()[14], nf4().values()[15]);
        assert_eq!(nf4().nearest((a + b) / 2.0), 14);
        assert_eq!(nf4().nearest(((a + b) / 2.0).next_up()), 15);
    }
}
