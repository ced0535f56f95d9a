//! Rows that are conversations: `messages` of `role` and `content`, and ShareGPT's `conversations` of `from` and
//! `value`; both with the tools the assistant may call.

use serde_json::{Map, Value, json};

use super::columns::{Columns, given, list, text, text_if_any};
use crate::data::conversation::{Conversation, Message, Role, brief};

/// The messages of column `name`.
pub(crate) fn messages(columns: &Columns, name: &str) -> Result<Vec<Message>, String> {
    let items = list(columns, name)?.iter().enumerate();
    items
        .map(|(i, item)| Message::read(item).map_err(|why| format!("`{name}[{i}]` {why}")))
        .collect()
}

/// Messages as a conversation, with the `tools` column.
pub(crate) fn conversation(
    messages: Vec<Message>,
    columns: &Columns,
) -> Result<Conversation, String> {
    let mut conversation = Conversation::new(messages)?;
    conversation.tools = given(columns, "tools").map(tools).transpose()?.flatten();
    Ok(conversation)
}

/// A list of function descriptions or its JSON text. A bare description gets the envelope that chat templates expect,
/// as transformers gives it to a Python function.
fn tools(value: &Value) -> Result<Option<Value>, String> {
    let items = match value {
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => {
            serde_json::from_str(text).map_err(|e| format!("column `tools`: {e}"))?
        }
        other => other.clone(),
    };
    let Value::Array(items) = items else {
        return Err(format!("column `tools` is {}, expected a list", brief(&items)));
    };
    let mut tools = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let item = match item {
            Value::String(text) => {
                serde_json::from_str(&text).map_err(|e| format!("`tools[{i}]`: {e}"))?
            }
            other => other,
        };
        tools.push(match item.as_object() {
            Some(object) if object.contains_key("function") => item,
            Some(object) if object.contains_key("name") => {
                json!({"type": "function", "function": item})
            }
            _ => {
                return Err(format!(
                    "`tools[{i}]` is {}, expected an object with `name` or `function`",
                    brief(&item)
                ));
            }
        });
    }
    Ok(if tools.is_empty() { None } else { Some(tools.into()) })
}

/// ShareGPT's columns, with the names that are in use for the roles.
pub(super) fn sharegpt(columns: &Columns) -> Result<Conversation, String> {
    let mut messages = Vec::new();
    if let Some(system) = text_if_any(columns, "system")? {
        messages.push(Message::new(Role::System, system));
    }
    for (i, item) in list(columns, "conversations")?.iter().enumerate() {
        messages.push(turn(item).map_err(|why| format!("`conversations[{i}]` {why}"))?);
    }
    conversation(messages, columns)
}

/// One message, of `from` and `value` or of `role` and `content`.
pub(super) fn turn(item: &Value) -> Result<Message, String> {
    let object =
        item.as_object().ok_or_else(|| format!("is {}, expected an object", brief(item)))?;
    if object.contains_key("role") {
        return Message::read(item);
    }
    let mut turn: Map<String, Value> = object.clone();
    let from = text(object, "from")?;
    let role = match from {
        "system" => Role::System,
        "human" | "user" => Role::User,
        "gpt" | "assistant" | "chatgpt" | "bot" | "model" | "function_call" => Role::Assistant,
        "observation" | "tool" | "function_response" | "ipython" => Role::Tool,
        other => {
            return Err(format!(
                "is from `{other}`, expected human, gpt, system, function_call or observation"
            ));
        }
    };
    let value = text(object, "value")?;
    turn.insert("role".into(), role.name().into());
    if from == "function_call" {
        turn.insert("tool_calls".into(), calls(value)?);
        turn.insert("content".into(), "".into());
    } else {
        turn.insert("content".into(), value.into());
    }
    turn.shift_remove("from");
    turn.shift_remove("value");
    Message::read(&turn.into())
}

/// What a `function_call` says: the JSON of one call or of several.
fn calls(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text)
        .map_err(|e| format!("is a function call that is no JSON: {e}"))?;
    let calls = match value {
        Value::Array(calls) if !calls.is_empty() => calls,
        one => vec![one],
    };
    calls
        .into_iter()
        .map(|call| match call.get("name") {
            Some(Value::String(_)) => Ok(json!({"type": "function", "function": call})),
            _ => Err(format!("is a function call without a `name`: {}", brief(&call))),
        })
        .collect()
}
