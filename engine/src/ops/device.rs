//! Which arithmetic a device has.

use std::sync::Arc;

use candle_core::DType;
use fleetune_shared::Device;
use fleetune_shared::recipe::Dtype;

use super::{Backend, Mixed, Portable};
use crate::{EngineError, Result};

/// The backend of `device`; `ordinal` counts cards as `nvidia-smi` does. `activations` are what a run asks for: a card's
/// are f32 always, and it multiplies by packed weights in bf16 where bf16 is asked for.
///
/// # Errors
/// For a card that is not there or that this binary cannot use; the text says what to do.
pub fn open(device: Device, ordinal: usize, activations: Dtype) -> Result<Arc<dyn Backend>> {
    match (device, activations) {
        (Device::Cpu, Dtype::Float32) => Ok(Arc::new(Portable)),
        (Device::Cpu, Dtype::Bfloat16) => Ok(Arc::new(Mixed::default())),
        (Device::Cuda, Dtype::Float32) => cuda(ordinal, DType::F32),
        (Device::Cuda, Dtype::Bfloat16) => cuda(ordinal, DType::BF16),
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize, unpacked: DType) -> Result<Arc<dyn Backend>> {
    let cuda = super::Cuda::open(ordinal, unpacked).map_err(|error| {
        EngineError::input(format!(
            "card {ordinal}: {error}; `nvidia-smi` must list it, with a CUDA version no older than the toolkit this \
             binary was built with (docs/cuda.md)"
        ))
    })?;
    Ok(Arc::new(cuda))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: DType) -> Result<Arc<dyn Backend>> {
    Err(EngineError::input(
        "this binary computes on the CPU only; build it with `cargo build --release --features cuda` (docs/cuda.md)",
    ))
}
