//! What a row teaches, for `fleetune train --preview`: its text in pieces, each learned or not.

use super::batch::{IGNORED, Row};
use super::tokenizer::Tokenizer;
use crate::Result;

/// A piece of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its text, special tokens included.
    pub text: String,
    /// Whether it is learned.
    pub supervised: bool,
}

/// Cuts a row wherever learning begins or ends. The first token is never predicted, so never learned.
///
/// # Errors
/// Tokens that cannot be decoded.
pub fn preview(row: &Row, tokenizer: &Tokenizer) -> Result<Vec<Segment>> {
    let learned = |i: usize| i > 0 && row.labels[i] != IGNORED;
    let mut segments = Vec::new();
    let mut start = 0;
    for end in 1..=row.input_ids.len() {
        if end == row.input_ids.len() || learned(end) != learned(start) {
            let text = tokenizer.decode(&row.input_ids[start..end])?;
            segments.push(Segment { text, supervised: learned(start) });
            start = end;
        }
    }
    Ok(segments)
}
