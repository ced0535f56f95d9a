//! Numbers held in few bits: the codecs of bitsandbytes and ggml, and bf16.
//!
//! ```text
//!   f32 ──encode──▶ FourBit (NF4, FP4) │ Blockwise8 │ Int8 │ Bf16 │ GgufBlocks ◀── a file that holds them already
//!                        └──────────── unpack: a stretch of f32, tile by tile ──────────┘
//! ```
//!
//! Every codec is lossy once, when it encodes; what it gives back is the same bits every time. Neighbours:
//! `ops` multiplies by what is held here, `optim` keeps moments as codes of the same books.

mod bf16;
mod blockwise8;
mod codebook;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
mod four_bit;
mod gguf;
mod int8;
mod mean;
mod nibbles;
#[cfg(test)]
mod parity;
mod weight;

use std::fmt::Debug;

pub use bf16::Bf16;
pub(crate) use bf16::Bf16Tensor;
pub use blockwise8::Blockwise8;
pub use codebook::{Codebook, dynamic8, dynamic8_unsigned, fp4, nf4};
#[cfg(any(test, feature = "cuda"))]
pub use cuda::FourBitOnCard;
pub use four_bit::{Absmax, FourBit, FourBitKind};
pub use gguf::GgufBlocks;
pub use int8::Int8;
pub use weight::{PackedMatrix, Weight};

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::ops::slices::narrow;
use crate::ops::wide::wide;
use crate::{EngineError, Result};

/// A run of numbers that takes less room than f32.
pub trait Packed: Debug + Send + Sync {
    /// How many numbers.
    fn count(&self) -> usize;

    /// Bytes held, block constants included.
    fn bytes(&self) -> usize;

    /// Numbers `from..from + out.len()` as f32. Formats in rows or blocks want both ends on a row's border.
    ///
    /// # Errors
    /// When the stretch ends beyond [`Self::count`] or is cut where the format cannot be.
    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()>;

    /// As [`Self::unpack`], each number as the nearest bf16.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    fn unpack_bf16(&self, from: usize, out: &mut [half::bf16]) -> Result<()> {
        let mut numbers = vec![0.0; out.len()];
        self.unpack(from, &mut numbers)?;
        narrow(out, &numbers);
        Ok(())
    }

    /// All numbers, where they are kept as bf16.
    fn as_bf16(&self) -> Option<&[half::bf16]> {
        None
    }

    /// The bf16 tensor that holds all numbers, where one does.
    fn as_tensor(&self) -> Option<&Tensor> {
        None
    }

    /// Itself, where it is of four bits.
    fn as_four_bit(&self) -> Option<&FourBit> {
        None
    }

    /// As [`Self::unpack`], a tensor of `count` numbers in `dtype` made on the card that holds them; `None` where they
    /// are held on this side.
    ///
    /// # Errors
    /// As [`Self::unpack`], or when the device fails.
    fn unpack_on_card(&self, _from: usize, _count: usize, _dtype: DType) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// Refuses a stretch beyond the end.
pub(crate) fn stretch(count: usize, from: usize, wanted: usize) -> Result<()> {
    match from.checked_add(wanted) {
        Some(end) if end <= count => Ok(()),
        _ => Err(EngineError::input(format!("numbers {from} and {wanted} more, of {count}"))),
    }
}

/// Refuses more or fewer block constants than blocks.
fn blocks_match(count: usize, block: usize, constants: usize) -> Result<()> {
    if block > 0 && count.div_ceil(block) == constants {
        return Ok(());
    }
    Err(EngineError::input(format!(
        "{constants} block constants for {count} numbers in blocks of {block}"
    )))
}

/// Has `encode` fill `codes` block by block, cores sharing the blocks, and gives each block's largest magnitude.
///
/// `values` lie in blocks of `block`, whose codes take `room`; `encode` sees a block's codes, its values and what to
/// multiply these by so that the largest of them becomes `largest`.
fn encode_blocks<C: Send>(
    (codes, room): (&mut [C], usize),
    (values, block): (&[f32], usize),
    largest: f32,
    encode: impl Fn(&mut [C], &[f32], f32) + Sync,
) -> Vec<f32> {
    let blocks = codes.par_chunks_mut(room).zip(values.par_chunks(block));
    let each = blocks.map(|(codes, values)| {
        let absmax = absmax(values);
        encode(codes, values, if absmax > 0.0 { largest / absmax } else { 0.0 });
        absmax
    });
    each.collect()
}

wide! {
    /// The largest magnitude, 0 for none; what is no number does not count.
    pub(crate) fn absmax(values: &[f32]) -> f32 {
        // So many at once, whatever the registers: the largest is the same in any order.
        const LANES: usize = 64;
        let mut most = [0.0f32; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for numbers in whole {
            for (most, number) in most.iter_mut().zip(numbers) {
                let size = number.abs();
                *most = if size > *most { size } else { *most };
            }
        }
        most.iter().chain(rest).fold(0.0, |most, number| f32::max(most, number.abs()))
    }
}
