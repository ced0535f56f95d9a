//! What a row's columns mean: every layout becomes a [`Sample`].

mod chats;
mod columns;
mod opinions;
mod texts;
mod tokenized;

use fleetune_shared::recipe::{DataFormat, DataSettings};

pub(super) use self::columns::Columns;
use super::batch::Row;
use super::conversation::Conversation;

/// A row, understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sample {
    /// A chat, its completion beginning at message `completion_from`, where the layout has such a thing.
    Chat { conversation: Conversation, completion_from: Option<usize> },
    /// A text and how it goes on; what looks like a control token in it is text.
    Text { prompt: String, completion: String },
    /// A text to the model's own measure, control tokens included.
    Plain(String),
    /// Tokens, made elsewhere.
    Tokens(Row),
}

/// What a line of a file says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    /// Something to learn.
    One(Sample),
    /// A preferred answer and another, each with its prompt.
    Pair(Box<[Sample; 2]>),
    /// An answer with its prompt, and whether it was wanted.
    Judged(Sample, bool),
}

/// What else must be known to understand a row.
pub(super) struct Context<'a> {
    pub(super) settings: &'a DataSettings,
    /// Whether conversations can be rendered.
    pub(super) has_template: bool,
    /// Bounds the ids of tokenized rows.
    pub(super) vocab_size: usize,
}

impl Context<'_> {
    /// The layout a row's columns speak of.
    pub(super) fn detect(&self, columns: &Columns) -> Result<DataFormat, String> {
        let has = |name: &str| columns.contains_key(name);
        let text_field = self.settings.text_field.as_str();
        if has("chosen") && has("rejected") {
            Err("columns `chosen` and `rejected` are preference pairs, which `task: sft` does not learn from; \
                 give rows with one answer, or name the layout as `dataset_format` to use the rest"
                .into())
        } else if has("input_ids") {
            Ok(DataFormat::Tokenized)
        } else if has("messages") {
            Ok(DataFormat::Messages)
        } else if has("conversations") {
            Ok(DataFormat::Sharegpt)
        } else if has("prompt") && has("completion") {
            Ok(DataFormat::PromptCompletion)
        } else if has("instruction") && has("output") {
            Ok(DataFormat::Alpaca)
        } else if has(text_field) {
            Ok(DataFormat::Text)
        } else {
            Err(format!(
                "columns are {}, expected `messages`, `conversations`, `prompt` and `completion`, `instruction` and \
                 `output`, `{text_field}`, or `input_ids`; rename them, or name the layout as `dataset_format`",
                columns::names(columns)
            ))
        }
    }

    /// Reads a row of the layout `format`.
    pub(super) fn line(&self, format: DataFormat, columns: &Columns) -> Result<Line, String> {
        match format {
            DataFormat::Preference => opinions::pair(columns, self.vocab_size),
            DataFormat::Kto => opinions::verdict(columns, self.vocab_size),
            other => self.sample(other, columns).map(Line::One),
        }
    }

    fn sample(&self, format: DataFormat, columns: &Columns) -> Result<Sample, String> {
        match format {
            DataFormat::Auto => self.sample(self.detect(columns)?, columns),
            DataFormat::Alpaca => texts::alpaca(columns, self.has_template),
            DataFormat::Messages => {
                let messages = chats::messages(columns, "messages")?;
                let conversation = chats::conversation(messages, columns)?;
                Ok(Sample::Chat { conversation, completion_from: None })
            }
            DataFormat::Sharegpt => {
                let conversation = chats::sharegpt(columns)?;
                Ok(Sample::Chat { conversation, completion_from: None })
            }
            DataFormat::PromptCompletion => texts::prompt_completion(columns),
            DataFormat::Text => texts::plain(columns, &self.settings.text_field),
            DataFormat::Preference | DataFormat::Kto => {
                Err("a row of this layout holds opinions on answers, and no single sample".into())
            }
            DataFormat::Tokenized => {
                tokenized::tokenized(columns, self.vocab_size).map(Sample::Tokens)
            }
        }
    }
}
