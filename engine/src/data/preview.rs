//! What a data set teaches, for `fleetune train --preview`: its text in pieces, each learned or not.

use fleetune_shared::TrainOrder;

use super::batch::{IGNORED, Row};
use super::dataset::Dataset;
use super::tokenizer::Tokenizer;
use crate::{EngineError, Result, model};

/// A piece of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its text, special tokens included.
    pub text: String,
    /// Whether it is learned.
    pub supervised: bool,
}

/// A row as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPreview {
    /// Its tokens.
    pub tokens: usize,
    /// Those of them that are learned.
    pub supervised: usize,
    /// Its text, cut wherever learning begins or ends.
    pub segments: Vec<Segment>,
}

/// The beginning of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Rows, sequence by sequence: a packed one holds several, a pair is two.
    pub sequences: Vec<Vec<RowPreview>>,
    /// What the user should know about them, such as turns that cannot be learned.
    pub notes: Vec<String>,
}

/// The first `count` rows of a training order.
///
/// # Errors
/// What [`Dataset::load`] refuses; a model without a tokenizer, whose tokens have no text.
pub fn preview_rows(order: &TrainOrder, count: u64) -> Result<Preview> {
    let spec = model::spec_of(&order.model)?;
    let recipe = order.recipe.clone().fit_model(&spec);
    let mut settings = recipe.map_err(|e| EngineError::input(e.to_string()))?.data;
    settings.rows_max = Some(settings.rows_max.map_or(count, |rows| rows.min(count)).max(1));
    let tokenizer = Tokenizer::with_template(&order.model, &settings)?;
    let files = order.data.sets.concat();
    let dataset = Dataset::load(&files, &settings, Some(&tokenizer), &spec)?;
    let row = |row: &Row| {
        let segments = preview(row, &tokenizer)?;
        Ok(RowPreview { tokens: row.input_ids.len(), supervised: row.supervised(), segments })
    };
    let sequences = dataset.iter().map(|rows| rows?.iter().map(row).collect());
    Ok(Preview { sequences: sequences.collect::<Result<_>>()?, notes: dataset.notes })
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
