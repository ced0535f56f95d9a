//! Rows that mean nothing: tokens of which every one is learned, as many as a bench asks for.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use fleetune_shared::recipe::Objective;
use serde_json::{Value, json};

use crate::{EngineError, Result};

/// Writes `count` tokenised rows as JSON lines to `path`, each of `length` tokens below `vocab_size`, in the layout that
/// `objective` learns from. Pairs and judged answers follow a prompt of one token, so that all the rest is learned.
///
/// # Errors
/// [`EngineError::Io`].
pub fn write(
    path: &Path,
    objective: &Objective,
    count: usize,
    length: usize,
    vocab_size: usize,
) -> Result<()> {
    let fill = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for row in 0..count {
            let tokens = |seed| tokens(2 * row + seed, length, vocab_size);
            let (first, second) = (tokens(0), tokens(1));
            let (prompt, answer) = first.split_at(1);
            let line: Value = match objective {
                Objective::Sft(_) => json!({"input_ids": first}),
                Objective::Kto(_) => json!({
                    "prompt_ids": prompt,
                    "completion_ids": answer,
                    "label": row % 2 == 0,
                }),
                Objective::Dpo(_)
                | Objective::Orpo { .. }
                | Objective::Cpo(_)
                | Objective::Reward(_) => json!({
                    "prompt_ids": prompt,
                    "chosen_ids": answer,
                    "rejected_ids": second[1..],
                }),
            };
            writeln!(file, "{line}")?;
        }
        file.flush()
    };
    fill().map_err(|e| EngineError::io(path, e))
}

/// Tokens without an order that a model could guess.
fn tokens(seed: usize, length: usize, vocab_size: usize) -> Vec<usize> {
    (0..length).map(|i| (i * i * 31 + seed * 977) % vocab_size).collect()
}
