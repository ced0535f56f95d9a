//! Answers: a prompt in, tokens out one by one, through a KV cache.
//!
//! ```text
//!   Conversation ─▶ template ─▶ ids ─▶ Model::step ─▶ logits ─▶ candle's LogitsProcessor ─▶ id ─▶ TextStream ─▶ text
//!                                           ▲                                              │
//!                                           └──────────────────────────────────────────────┘
//! ```

mod answerer;
mod sample;
mod stream;

pub use answerer::{Answer, Answerer};
pub use sample::{End, Generation, NextLogits, Settings, generate};
pub use stream::TextStream;
