//! bfloat16: the upper half of an f32.

use candle_core::Tensor;
use half::bf16;
use rayon::prelude::*;

use super::{Packed, stretch};
use crate::Result;
use crate::ops::slices::{narrow, view_as, widen};

/// Numbers that one thread rounds at a time: with fewer, another costs more than it brings.
const PIECE: usize = 1 << 14;

/// 16 bits a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Bf16(Vec<bf16>);

impl Bf16 {
    /// Rounds to the nearest, ties to even; what was bf16 before stays what it was.
    #[must_use]
    pub fn encode(values: &[f32]) -> Self {
        let mut numbers = vec![bf16::ZERO; values.len()];
        let pieces = numbers.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE));
        pieces.for_each(|(numbers, values)| narrow(numbers, values));
        Self(numbers)
    }
}

impl Packed for Bf16 {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        2 * self.0.len()
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        stretch(self.count(), from, out.len())?;
        widen(out, &self.0[from..][..out.len()]);
        Ok(())
    }

    fn as_bf16(&self) -> Option<&[bf16]> {
        Some(&self.0)
    }
}

/// bf16 numbers in a tensor: those that learn, and those on a card.
#[derive(Clone, Debug)]
pub(crate) struct Bf16Tensor(pub(crate) Tensor);

impl Packed for Bf16Tensor {
    fn count(&self) -> usize {
        self.0.elem_count()
    }

    fn bytes(&self) -> usize {
        2 * self.count()
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        stretch(self.count(), from, out.len())?;
        let all = view_as::<bf16>(&self.0)?;
        widen(out, &all[from..from + out.len()]);
        Ok(())
    }

    fn as_tensor(&self) -> Option<&Tensor> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::number::Number;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        // Every upper half, with lower halves around a tie.
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let (found, expected) = (<bf16 as Number>::narrow(value), bf16::from_f32(value));
                assert_eq!(found.to_bits(), expected.to_bits(), "{value:?}");
            }
        }
    }
}
