//! bfloat16: the upper half of an f32.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::{Packed, stretch};
use crate::Result;
use crate::ops::slices::widen;

/// 16 bits a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Bf16(Vec<bf16>);

impl Bf16 {
    /// Rounds to the nearest, ties to even; what was bf16 before stays what it was.
    #[must_use]
    pub fn encode(values: &[f32]) -> Self {
        let mut rounded = vec![bf16::ZERO; values.len()];
        rounded.convert_from_f32_slice(values);
        Self(rounded)
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
