//! Training on one device: synchronous, no network.
//!
//! ```text
//!   TrainOrder ─▶ train ─▶ data ─▶ model (ops, adapter) ─▶ optim ─▶ checkpoint
//!                   │        rows     forward + backward     step      exact resume
//!                   └─▶ Observer: metrics, checkpoints, the end
//! ```
//!
//! candle supplies tensors, devices and file formats; the training step is our own layer-by-layer driver with
//! hand-written backward passes, because candle's autograd computes gradients for frozen weights and keeps every
//! intermediate alive (`docs/adr/`). A sequence of tokens is never padded: a batch is one flat run of tokens with
//! `cu_seqlens` marking where each example begins.

pub mod adapter;
pub mod bench;
pub mod checkpoint;
pub mod data;
mod error;
pub mod export;
pub mod generate;
pub mod linalg;
pub mod memory;
pub mod merge;
pub mod model;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod quant;
pub mod selftest;
pub mod tensor_file;
pub mod threads;
pub mod train;

pub use error::{EngineError, Result};
