//! In what form a model keeps each tensor it reads.
//!
//! One tensor is read, brought into its form and let go before the next, so that loading never holds more than the
//! model and one tensor. As with bitsandbytes, only the linear layers of the blocks are quantised: embedding, head,
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
    match stored {
        Some(matrix) => Ok(Weight::Packed(matrix)),
        None => hold(name, files.read(name)?, how),
    }
}

/// Brings `value`, the tensor `name`, into the form `how` says.
pub(super) fn hold(name: &str, value: Tensor, how: Quantization) -> Result<Weight> {
    let &[_, width] = value.dims() else { return Ok(Weight::F32(value)) };
    let packed: Arc<dyn Packed> = {
        let numbers = view(&value)?;
        let in_block = name.starts_with("model.layers.");
        match how {
            Quantization::FourBit(four) if in_block => {
                let kind = match four.kind {
                    FourBitType::Nf4 => FourBitKind::Nf4,
                    FourBitType::Fp4 => FourBitKind::Fp4,
                };
                Arc::new(FourBit::encode(&numbers, kind, four.double))
            }
            Quantization::EightBit if in_block => Arc::new(Int8::encode(&numbers, width)),
            Quantization::Bfloat16 => Arc::new(Bf16::encode(&numbers)),
            Quantization::FourBit(four) if four.bfloat16 => Arc::new(Bf16::encode(&numbers)),
            _ => {
                drop(numbers);
                return Ok(Weight::F32(value));
            }
        }
    };
    Ok(Weight::Packed(PackedMatrix::new(packed, width)))
}
