//! Which arithmetic a device has, and where its tensors live.

use std::sync::Arc;

use candle_core::Device as Place;
use fleetune_shared::Device;
use fleetune_shared::recipe::Dtype;

use super::{Backend, Mixed, Portable};
use crate::{EngineError, Result};

/// The backend of `device` whose activations are f32 or bf16, and the place its tensors live; `ordinal` counts cards as
/// `nvidia-smi` does.
///
/// # Errors
/// For a card that is not there or that this binary cannot use, and for activations a device does not have; the text
/// says what to do.
pub fn open(
    device: Device,
    ordinal: usize,
    activations: Dtype,
) -> Result<(Arc<dyn Backend>, Place)> {
    match (device, activations) {
        (Device::Cpu, Dtype::Float32) => Ok((Arc::new(Portable), Place::Cpu)),
        (Device::Cpu, Dtype::Bfloat16) => Ok((Arc::new(Mixed::default()), Place::Cpu)),
        (Device::Cuda, Dtype::Float32) => cuda(ordinal),
        (Device::Cuda, Dtype::Bfloat16) => Err(EngineError::input(
            "a card computes with activations in float32 only; leave --dtype out",
        )),
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<(Arc<dyn Backend>, Place)> {
    let cuda = super::Cuda::open(ordinal).map_err(|error| {
        EngineError::input(format!(
            "card {ordinal}: {error}; `nvidia-smi` must list it, with a CUDA version no older than the toolkit this \
             binary was built with (docs/cuda.md)"
        ))
    })?;
    let place = cuda.device().clone();
    Ok((Arc::new(cuda), place))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<(Arc<dyn Backend>, Place)> {
    Err(EngineError::input(
        "this binary computes on the CPU only; build it with `cargo build --release --features cuda` (docs/cuda.md)",
    ))
}
