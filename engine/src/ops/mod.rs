//! The arithmetic of a decoder block: leaf operations, each with its forward and its backward.
//!
//! [`Backend`] is the seam: the driver in `model` speaks to it only, so that fused kernels can stand beside
//! [`Portable`] without touching a block. Matrix products go through candle (`gemm`); everything else is here.
//! All tensors are contiguous and two-dimensional, one row per token, unless a method says otherwise.

mod backend;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod cuda;
mod device;
mod dropout;
mod mixed;
pub(crate) mod number;
mod portable;
mod rotary;
pub(crate) mod slices;
pub(crate) mod wide;

pub use backend::{AttentionShape, Backend, LowRank, Onto, Span};
#[cfg(any(test, feature = "cuda"))]
pub use cuda::Cuda;
pub use device::open;
pub use dropout::DropoutMask;
pub use mixed::{Mixed, has_matrix_registers};
pub use portable::Portable;
pub use rotary::{Frequencies, Rotary, Turn};
