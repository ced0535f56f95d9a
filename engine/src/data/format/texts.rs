//! Rows that are texts: Alpaca's columns, a prompt and its completion, plain text.

use serde_json::Value;

use super::Sample;
use super::chats::{conversation, messages};
use super::columns::{Columns, required, text, text_if_any};
use crate::data::conversation::{Conversation, Message, Role, brief};

/// Stanford Alpaca's columns. With a chat template a row is one question and its answer; without one it is the
/// text the Alpaca models were trained on (tatsu-lab/stanford_alpaca, `train.py`).
pub(super) fn alpaca(columns: &Columns, has_template: bool) -> Result<Sample, String> {
    let instruction = text(columns, "instruction")?;
    let input = text_if_any(columns, "input")?;
    let output = text(columns, "output")?;
    let system = text_if_any(columns, "system")?;
    if !has_template {
        let prompt = match input {
            Some(input) => format!(
                "Below is an instruction that describes a task, paired with an input that provides further context. \
                 Write a response that appropriately completes the request.\n\n\
                 ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
            ),
            None => format!(
                "Below is an instruction that describes a task. \
                 Write a response that appropriately completes the request.\n\n\
                 ### Instruction:\n{instruction}\n\n### Response:\n"
            ),
        };
        let system = system.map(|system| format!("{system}\n\n")).unwrap_or_default();
        return Ok(Sample::Text { prompt: system + &prompt, completion: output.to_owned() });
    }
    let question = match input {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction.to_owned(),
    };
    let mut messages = Vec::from_iter(system.map(|text| Message::new(Role::System, text)));
    messages.push(Message::new(Role::User, question));
    messages.push(Message::new(Role::Assistant, output));
    let completion_from = Some(messages.len() - 1);
    Ok(Sample::Chat { conversation: Conversation::new(messages)?, completion_from })
}

/// `prompt` and `completion`, both texts or both lists of messages.
pub(super) fn prompt_completion(columns: &Columns) -> Result<Sample, String> {
    let (prompt, completion) = (required(columns, "prompt")?, required(columns, "completion")?);
    match (prompt, completion) {
        (Value::Array(_), Value::Array(_)) => {
            let mut all = messages(columns, "prompt")?;
            let completion_from = Some(all.len());
            all.extend(messages(columns, "completion")?);
            Ok(Sample::Chat { conversation: conversation(all, columns)?, completion_from })
        }
        (Value::Array(_), other) | (other, Value::Array(_)) => Err(format!(
            "one of `prompt` and `completion` is a list of messages, the other {}; make both the same",
            brief(other)
        )),
        _ => Ok(Sample::Text {
            prompt: text(columns, "prompt")?.to_owned(),
            completion: text(columns, "completion")?.to_owned(),
        }),
    }
}

/// The column `name`, all of it learned.
pub(super) fn plain(columns: &Columns, name: &str) -> Result<Sample, String> {
    Ok(Sample::Plain(text(columns, name)?.to_owned()))
}
