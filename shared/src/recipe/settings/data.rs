//! What a run learns from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::words::{
    OverLength, PackingStrategy, Sampling, StoppingStrategy, TruncationMode,
};

/// How rows are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    /// Told from the columns of the first row.
    #[default]
    Auto,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `messages`: a list of `role` and `content`.
    Messages,
    /// `conversations`: a list of `from` and `value`.
    Sharegpt,
    /// `prompt` and `completion`, texts or message lists.
    PromptCompletion,
    /// One column of plain text, see `dataset_text_field`.
    Text,
    /// `prompt`, `chosen` and `rejected`, texts or message lists; `prompt` may be left out.
    Preference,
    /// `prompt`, `completion` and `label`, or `messages` and `label`.
    Kto,
    /// `input_ids` and `labels`, used as they are; −100 marks a token without a label.
    Tokenized,
}

/// What to learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSettings {
    /// Files as written.
    pub paths: Vec<String>,
    /// Split of a hub data set.
    pub split: String,
    /// Configuration of a hub data set.
    pub config: Option<String>,
    /// How several sets become one; end to end when absent.
    pub mixing: Option<Mixing>,
    /// Rows kept from training for evaluation.
    pub held_out: HeldOut,
    /// Their layout.
    pub format: DataFormat,
    /// Column of plain text.
    pub text_field: String,
    /// Use only the first so many rows.
    pub rows_max: Option<u64>,
    /// Longest row in tokens.
    pub max_length: usize,
    /// What happens to longer rows.
    pub over_length: OverLength,
    /// Which end of a cut row stays.
    pub truncation: TruncationMode,
    /// How rows share bins of `max_length`, if they do.
    pub packing: Packing,
    /// Learn only what the assistant says.
    pub assistant_only_loss: bool,
    /// Learn only completions.
    pub completion_only_loss: bool,
    /// A built-in template by name, instead of the model's own.
    pub chat_template: Option<String>,
    /// A Jinja file that replaces the model's own template, as written.
    pub chat_template_path: Option<String>,
    /// Order of rows.
    pub sampling: Sampling,
}

/// Several sets drawn from in turn by chance.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixing {
    /// One for each of [`DataSettings::paths`]; they add up to 1.
    pub probabilities: Vec<f64>,
    /// When it ends.
    pub stopping: StoppingStrategy,
}

/// Where evaluation's rows come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HeldOut {
    /// There are none.
    #[default]
    None,
    /// Sets of their own, as written.
    Sets(Vec<String>),
    /// This part of the rows, above 0 and below 1.
    Part(f64),
    /// So many of the rows.
    Rows(u64),
}

/// How rows share bins of `max_length` tokens; `None` when each is alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing(pub Option<PackingStrategy>);

impl Packing {
    /// Whether rows longer than a bin are split over several, and so never too long.
    #[must_use]
    pub fn splits(self) -> bool {
        matches!(self.0, Some(PackingStrategy::BfdSplit | PackingStrategy::Wrapped))
    }
}
