//! From files to micro-batches: formats, chat template, tokens, labels, order.
//!
//! ```text
//!   JSON / JSONL ─▶ format ─▶ Conversation ─▶ template ─▶ tokens + labels (Row) ─▶ loader ─▶ MicroBatch
//! ```

mod batch;
mod dataset;
mod loader;

pub use batch::{IGNORED, MicroBatch, Row};
pub use dataset::{DataStats, Dataset};
pub use loader::{Cursor, Loader};
