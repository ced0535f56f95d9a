//! A model's shape, read from a Hugging Face `config.json` or a GGUF header.
//!
//! Everything that sizes memory or builds a decoder block comes from here: the estimator in this room and
//! the model in `engine`. Reading files is the caller's business; this module only reads values.
//!
//! ```text
//!   config.json ──hf_config──┐    ┌── family: what an architecture's name alone implies
//!                            ├─▶ ModelSpec ──▶ engine, estimate
//!   GGUF header ─gguf_config─┘
//! ```

mod error;
mod family;
mod gguf_config;
mod hf_config;
mod hf_rope;
mod keys;
mod rope;
mod spec;
mod stored;
#[cfg(test)]
mod tests;

pub use error::ModelSpecError;
pub(crate) use keys::{CONFIG, object};
pub use rope::RopeScaling;
pub use spec::{Activation, LayerType, ModelSpec, NormPlacement};
pub use stored::StoredWeights;
