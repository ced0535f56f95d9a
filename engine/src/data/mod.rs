//! From files to micro-batches: formats, chat template, tokens, labels, order.
//!
//! ```text
//!   sources ─▶ rows ─▶ format ─▶ Conversation ─▶ template ─▶ tokens + labels (Row) ─▶ store
//!                            MicroBatch ◀─ feed ◀─ loader ◀─ sequences, packed or not ◀─┘
//! ```

mod batch;
mod cache;
mod conversation;
mod dataset;
mod datasets;
mod encode;
mod feed;
mod file;
mod format;
mod guard;
mod load;
mod loader;
mod mixture;
mod pack;
mod piece;
mod preview;
mod rows;
mod sequences;
mod sources;
mod store;
mod template;
mod tokenizer;

pub use batch::{IGNORED, MicroBatch, Row};
pub use conversation::{Conversation, Message, Role};
pub use dataset::{DataStats, Dataset};
pub use datasets::Datasets;
pub use feed::{Feed, Step};
pub use loader::{Cursor, Loader};
pub use preview::{Preview, RowPreview, Segment, preview, preview_rows};
pub use sources::{files_of, holds_rows, of_split};
pub use template::ChatTemplate;
pub(crate) use tokenizer::{GGUF_LLAMA3, GGUF_QWEN2};
pub use tokenizer::{SpecialToken, Tokenizer};
