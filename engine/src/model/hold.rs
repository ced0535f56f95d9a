//! In what form a model keeps each tensor it reads.
//!
//! One tensor is read, brought into its form and let go before the next, so that loading never holds more than the
//! model and one tensor; what a file has in that form already is mapped. As with bitsandbytes, only the linear layers of the blocks are quantised: embedding, head,
//! norms and biases keep their precision.

use std::sync::Arc;

use candle_core::Tensor;
use fleetune_shared::recipe::{FourBitType, Quantization};

use super::source::WeightFiles;
use crate::Result;
use crate::ops::slices::view;
use crate::quant::{Bf16, FourBit, FourBitKind, Int8, Packed, PackedMatrix, Weight};

/// Reads `name` and keeps it as `how` says. Weights that a checkpoint stores quantised stay as they are unless f32 or
/// bf16 is asked for; a GGUF file's blocks only under [`Quantization::AsStored`].
pub(crate) fn weight(files: &WeightFiles, name: &str, how: Quantization) -> Result<Weight> {
    let stored = match how {
        Quantization::AsStored => files.packed(name)?,
        Quantization::FourBit(_) | Quantization::EightBit if files.is_checkpoint() => {
            files.packed(name)?
        }
        _ => None,
    };
    let stored = match stored {
        None if stays_bf16(name, how) => files.mapped(name)?,
        stored => stored,
    };
    match stored {
        Some(matrix) => Ok(Weight::Packed(matrix)),
        None => hold(name, files.read(name)?, how),
    }
}

/// Whether a matrix is kept as bf16.
fn stays_bf16(name: &str, how: Quantization) -> bool {
    match how {
        Quantization::Bfloat16 => true,
        Quantization::FourBit(four) => four.bfloat16 && !in_block(name),
        Quantization::EightBit | Quantization::AsStored | Quantization::Float32 => false,
    }
}

fn in_block(name: &str) -> bool {
    name.starts_with("model.layers.")
}

/// Brings `value`, the tensor `name`, into the form `how` says.
pub(super) fn hold(name: &str, value: Tensor, how: Quantization) -> Result<Weight> {
    let &[_, width] = value.dims() else { return Ok(Weight::F32(value)) };
    let packed: Arc<dyn Packed> = {
        let numbers = view(&value)?;
        match how {
            Quantization::FourBit(four) if in_block(name) => {
                let kind = match four.kind {
                    FourBitType::Nf4 => FourBitKind::Nf4,
                    FourBitType::Fp4 => FourBitKind::Fp4,
                };
                Arc::new(FourBit::encode(&numbers, kind, four.double))
            }
            Quantization::EightBit if in_block(name) => Arc::new(Int8::encode(&numbers, width)),
            _ if stays_bf16(name, how) => Arc::new(Bf16::encode(&numbers)),
            _ => {
                drop(numbers);
                return Ok(Weight::F32(value));
            }
        }
    };
    Ok(Weight::Packed(PackedMatrix::new(packed, width)))
}
