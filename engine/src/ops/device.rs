//! Which arithmetic a device has, and where its tensors live.

use candle_core::Device as Place;
use fleetune_shared::Device;

use super::{Backend, Portable};
use crate::Result;

/// The backend of `device` and the place its tensors live; `ordinal` counts cards as `nvidia-smi` does.
///
/// # Errors
/// For a card that is not there or that this binary cannot use; the text says what to do.
pub fn open(device: Device, ordinal: usize) -> Result<(Box<dyn Backend>, Place)> {
    match device {
        Device::Cpu => Ok((Box::new(Portable), Place::Cpu)),
        Device::Cuda => cuda(ordinal),
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<(Box<dyn Backend>, Place)> {
    let cuda = super::Cuda::open(ordinal).map_err(|error| {
        crate::EngineError::input(format!(
            "card {ordinal}: {error}; `nvidia-smi` must list it, with a CUDA version no older than the toolkit this \
             binary was built with (docs/cuda.md)"
        ))
    })?;
    let place = cuda.device().clone();
    Ok((Box::new(cuda), place))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<(Box<dyn Backend>, Place)> {
    Err(crate::EngineError::input(
        "this binary computes on the CPU only; build it with `cargo build --release --features cuda` (docs/cuda.md)",
    ))
}
