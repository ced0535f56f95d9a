//! A decoder-only transformer: loading, the forward pass, and the backward pass written by hand.
//!
//! ```text
//!   files ─▶ weights ─▶ Model { embed, blocks, norm, head }
//!                         │ forward_backward: one block at a time, each keeps only what its backward needs
//!                         ▼
//!                      Trainable { value, grad } ─▶ optim, checkpoint
//! ```
//!
//! Neighbours: `ops` has the arithmetic, `adapter` what is laid beside the linear layers, `data` the micro-batches.

mod attach;
mod attention;
mod bitsandbytes;
mod block;
mod cache;
mod carry;
mod decoder;
mod embedding;
mod files;
mod gguf;
mod gguf_names;
mod graded;
mod head;
mod hold;
mod identity;
mod linear;
mod load;
mod lora;
mod mapped;
mod mlp;
mod noise;
mod norm;
mod projections;
mod random;
mod residual;
mod save;
mod scale;
mod score;
mod shards;
mod source;
mod stored;
mod trainable;

pub use crate::quant::{PackedMatrix, Weight};
pub use attach::Attached;
pub use cache::KvCache;
pub use decoder::Model;
pub use files::{files_of, has_weights};
pub(crate) use gguf::{header as gguf_header, in_pairs};
pub(crate) use gguf_names::gguf_name;
pub use graded::{Policy, TokenLogps};
pub(crate) use hold::weight as held_weight;
pub use identity::Identity;
pub use noise::Noise;
pub(crate) use save::write_tensors;
pub use save::{save, save_surroundings};
pub(crate) use shards::{Shards, metadata, read_all};
pub use source::{WeightFiles, spec_of};
pub use trainable::{Role, Trainable};
