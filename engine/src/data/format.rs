//! What a row's columns mean: every layout becomes a [`Sample`].

use fleetune_shared::recipe::DataFormat;
use serde_json::{Map, Value};

use super::batch::{IGNORED, Row};
use super::conversation::{Conversation, Message, Role, brief};

type Columns = Map<String, Value>;

/// A row, understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sample {
    /// A chat, its completion beginning at message `completion_from`, where the layout has such a thing.
    Chat { conversation: Conversation, completion_from: Option<usize> },
    /// A text and how it goes on.
    Text { prompt: String, completion: String },
    /// Tokens, made elsewhere.
    Tokens(Row),
}

/// The layout a row's columns speak of.
pub(super) fn detect(columns: &Columns) -> Result<DataFormat, String> {
    let has = |name: &str| columns.contains_key(name);
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
    } else {
        let found: Vec<_> = columns.keys().map(String::as_str).collect();
        Err(format!(
            "columns are {}, expected `messages`, `conversations`, `prompt` and `completion`, \
             `instruction` and `output`, or `input_ids`; rename them, or name the layout as `dataset_format`",
            if found.is_empty() { "none".into() } else { format!("`{}`", found.join("`, `")) }
        ))
    }
}

/// Reads a row of the layout `format`; `vocab_size` bounds the ids of tokenized rows.
pub(super) fn sample(
    format: DataFormat,
    columns: &Columns,
    has_template: bool,
    vocab_size: usize,
) -> Result<Sample, String> {
    match format {
        DataFormat::Auto => sample(detect(columns)?, columns, has_template, vocab_size),
        DataFormat::Alpaca => alpaca(columns, has_template),
        DataFormat::Messages => {
            let conversation = conversation(messages(columns, "messages")?, columns)?;
            Ok(Sample::Chat { conversation, completion_from: None })
        }
        DataFormat::Sharegpt => sharegpt(columns),
        DataFormat::PromptCompletion => prompt_completion(columns),
        DataFormat::Text | DataFormat::Preference | DataFormat::Kto => {
            Err("this layout is not read yet".into())
        }
        DataFormat::Tokenized => tokenized(columns, vocab_size).map(Sample::Tokens),
    }
}

fn required<'a>(columns: &'a Columns, name: &str) -> Result<&'a Value, String> {
    columns.get(name).filter(|value| !value.is_null()).ok_or_else(|| {
        let found: Vec<_> = columns.keys().map(String::as_str).collect();
        format!("column `{name}` is missing; found `{}`", found.join("`, `"))
    })
}

fn text<'a>(columns: &'a Columns, name: &str) -> Result<&'a str, String> {
    let value = required(columns, name)?;
    value.as_str().ok_or_else(|| format!("column `{name}` is {}, expected text", brief(value)))
}

fn text_if_any<'a>(columns: &'a Columns, name: &str) -> Result<Option<&'a str>, String> {
    let present = columns.get(name).is_some_and(|value| !value.is_null());
    let found = if present { Some(text(columns, name)?) } else { None };
    Ok(found.filter(|text| !text.is_empty()))
}

fn list<'a>(columns: &'a Columns, name: &str) -> Result<&'a [Value], String> {
    let value = required(columns, name)?;
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| format!("column `{name}` is {}, expected a list", brief(value)))
}

fn messages(columns: &Columns, name: &str) -> Result<Vec<Message>, String> {
    let items = list(columns, name)?.iter().enumerate();
    items
        .map(|(i, item)| Message::read(item).map_err(|why| format!("`{name}[{i}]` {why}")))
        .collect()
}

/// Adds the `tools` column, a list or its JSON text.
fn conversation(messages: Vec<Message>, columns: &Columns) -> Result<Conversation, String> {
    let mut conversation = Conversation::new(messages)?;
    conversation.tools = match columns.get("tools") {
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => {
            Some(serde_json::from_str(text).map_err(|e| format!("column `tools`: {e}"))?)
        }
        Some(Value::Array(tools)) if !tools.is_empty() => Some(Value::Array(tools.clone())),
        _ => None,
    };
    Ok(conversation)
}

/// Stanford Alpaca's columns. With a chat template a row is one question and its answer; without one it is the
/// text the Alpaca models were trained on (tatsu-lab/stanford_alpaca, `train.py`).
fn alpaca(columns: &Columns, has_template: bool) -> Result<Sample, String> {
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

/// ShareGPT's columns: `from` and `value`, with the names that are in use for the roles.
fn sharegpt(columns: &Columns) -> Result<Sample, String> {
    let mut messages = Vec::new();
    if let Some(system) = text_if_any(columns, "system")? {
        messages.push(Message::new(Role::System, system));
    }
    for (i, item) in list(columns, "conversations")?.iter().enumerate() {
        let place = |why: String| format!("`conversations[{i}]` {why}");
        let object = item
            .as_object()
            .ok_or_else(|| place(format!("is {}, expected an object", brief(item))))?;
        if object.contains_key("role") {
            messages.push(Message::read(item).map_err(place)?);
            continue;
        }
        let role = match text(object, "from").map_err(place)? {
            "system" => Role::System,
            "human" | "user" => Role::User,
            "gpt" | "assistant" | "chatgpt" | "bot" | "model" => Role::Assistant,
            other => {
                return Err(place(format!(
                    "is from `{other}`, expected human, user, gpt, assistant or system"
                )));
            }
        };
        messages.push(Message::new(role, text(object, "value").map_err(place)?));
    }
    Ok(Sample::Chat { conversation: conversation(messages, columns)?, completion_from: None })
}

fn prompt_completion(columns: &Columns) -> Result<Sample, String> {
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

/// Token ids and labels as TRL stores them. Padding marked by `attention_mask` is cut off.
fn tokenized(columns: &Columns, vocab_size: usize) -> Result<Row, String> {
    let numbers = |name: &str| -> Result<Vec<i64>, String> {
        let items = list(columns, name)?.iter().enumerate();
        let number = |(i, value): (usize, &Value)| {
            let number = value.as_i64();
            number.ok_or_else(|| format!("`{name}[{i}]` is {}, expected a token id", brief(value)))
        };
        items.map(number).collect()
    };
    let ids = numbers("input_ids")?;
    let labels = if columns.contains_key("labels") { numbers("labels")? } else { ids.clone() };
    if labels.len() != ids.len() {
        return Err(format!(
            "`labels` has {} numbers, expected {}, as many as `input_ids`",
            labels.len(),
            ids.len()
        ));
    }
    let vocab = 0..i64::try_from(vocab_size).unwrap_or(i64::MAX);
    let strange = |id: &i64| !vocab.contains(id);
    if let Some((i, id)) = ids.iter().enumerate().find(|(_, id)| strange(id)) {
        return Err(format!("`input_ids[{i}]` is {id}, expected 0 to {}", vocab_size - 1));
    }
    let pairs = labels.iter().zip(&ids).enumerate();
    if let Some((i, (label, id))) =
        pairs.into_iter().find(|(_, (label, id))| **label != IGNORED && label != id)
    {
        return Err(format!(
            "`labels[{i}]` is {label}, expected {id} as in `input_ids`, or {IGNORED}; labels are not shifted"
        ));
    }
    let mut length = ids.len();
    if columns.contains_key("attention_mask") {
        let mask = numbers("attention_mask")?;
        length = mask.iter().rposition(|bit| *bit != 0).map_or(0, |last| last + 1);
        if mask.len() != ids.len() || mask[..length].contains(&0) {
            return Err("`attention_mask` hides more than padding at the end".into());
        }
    }
    Ok(Row {
        input_ids: ids[..length].iter().map(|id| *id as u32).collect(),
        labels: labels[..length].to_vec(),
    })
}
