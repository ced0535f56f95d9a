//! Everything needed to go on bit for bit, in a folder that is either whole or refused.
//!
//! ```text
//!   out/checkpoint-120/   adapter_config.json, adapter_model.safetensors   (or model.safetensors)
//!                         optimizer.safetensors    moments and step count
//!                         state.json               where the run stands, and what it is a run of
//!                         manifest.json            every file's BLAKE3, written last
//! ```
//!
//! A checkpoint is filled under another name, made durable, then renamed; older ones go only after that.

mod folder;
mod manifest;
mod standing;
mod state;

pub(crate) use folder::forget_after;
pub use folder::{latest, name_of, prune, write};
pub use manifest::{is_one, verify};
pub use standing::{Mark, Standing};
pub use state::{State, Totals};
