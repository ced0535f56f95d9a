//! From files to micro-batches: formats, chat template, tokens, labels, order.
//!
//! ```text
//!   JSON / JSONL ─▶ format ─▶ Conversation ─▶ template ─▶ tokens + labels (Row) ─▶ loader ─▶ MicroBatch
//! ```

mod batch;

pub use batch::{IGNORED, MicroBatch, Row};
