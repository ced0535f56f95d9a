//! Adapters: what is laid beside a frozen base, and how it lies on disk, which is exactly as PEFT writes it.
//!
//! ```text
//!   AdapterConfig ─fresh─▶ Adapter ─Model::attach─▶ tensors that learn ─save─▶ PEFT's folder ─load─▶ Adapter
//! ```
//!
//! `model` holds the tensors while they learn; this module makes fresh ones, reads them and writes them. Which modules
//! a configuration names, and in what sizes, is said by `shared`.

#[expect(clippy::module_inception, reason = "the file is named for the type it holds")]
mod adapter;
mod disk;
mod fresh;
mod keys;

pub use adapter::{Adapter, Layer, LoraLayer, ScaleLayer};
pub(crate) use disk::write;
pub use disk::{load, save, save_plain};
pub(crate) use keys::{Half, key, whole_key};
