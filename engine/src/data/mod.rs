//! From files to micro-batches: formats, chat template, tokens, labels, order.
//!
//! ```text
//!   JSON / JSONL ─▶ format ─▶ Conversation ─▶ template ─▶ tokens + labels (Row) ─▶ store
//!                                    MicroBatch ◀─ loader ◀─ sequences, packed or not ◀─┘
//! ```

mod batch;
mod conversation;
mod dataset;
mod encode;
mod file;
mod format;
mod guard;
mod load;
mod loader;
mod pack;
mod preview;
mod rows;
mod sequences;
mod store;
mod template;
mod tokenizer;

pub use batch::{IGNORED, MicroBatch, Row};
pub use conversation::{Conversation, Message, Role};
pub use dataset::{DataStats, Dataset};
pub use loader::{Cursor, Loader};
pub use preview::{RowPreview, Segment, preview, preview_rows};
pub use template::ChatTemplate;
pub use tokenizer::{SpecialToken, Tokenizer};
