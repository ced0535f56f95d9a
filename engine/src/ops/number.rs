//! What tensors are made of: f32, or bf16 where activations are kept in half the room.

use candle_core::{CpuStorage, WithDType};
use half::bf16;

/// A number that is computed with as f32.
pub(crate) trait Number: WithDType + Default {
    fn widen(self) -> f32;

    /// The nearest, ties to even.
    fn narrow(x: f32) -> Self;

    /// The nearest bf16, itself where it is one.
    fn rounded(self) -> bf16;

    /// A storage of such numbers, to write into; `None` if it holds others.
    fn of_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Number for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn rounded(self) -> bf16 {
        bf16::narrow(self)
    }

    fn of_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F32(all) => Some(all),
            _ => None,
        }
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Written without a branch, so that the compiler can run it on several numbers at once.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        // Rounding must not turn a NaN into something else.
        let nan = (bits >> 16) | 0x40;
        Self::from_bits(if x.is_nan() { nan } else { rounded } as u16)
    }

    #[inline(always)]
    fn rounded(self) -> bf16 {
        self
    }

    fn of_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::BF16(all) => Some(all),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_is_that_of_the_half_crate() {
        for i in 0..200_000u32 {
            let x = f32::from_bits(i.wrapping_mul(21_475));
            let (found, expected) = (<bf16 as Number>::narrow(x), bf16::from_f32(x));
            assert_eq!(found.is_nan(), expected.is_nan());
            assert!(found.is_nan() || found.to_bits() == expected.to_bits(), "{x}");
            assert!(expected.is_nan() || Number::widen(expected) == expected.to_f32());
        }
    }
}
