//! A conversation: messages with roles, as chat templates take them.

use serde_json::{Map, Value};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions before the first turn.
    System,
    /// The person.
    User,
    /// The model; what is learned.
    Assistant,
    /// The answer of a tool the assistant called.
    Tool,
}

impl Role {
    /// In the spelling of chat templates.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// `developer` is OpenAI's later name for the system.
    fn of(name: &str) -> Option<Self> {
        let roles = [Self::System, Self::User, Self::Assistant, Self::Tool];
        let name = if name == "developer" { "system" } else { name };
        roles.into_iter().find(|role| role.name() == name)
    }

    /// Who may speak after `self`.
    fn successors(self) -> &'static [Self] {
        match self {
            Self::System => &[Self::User],
            Self::User => &[Self::Assistant],
            Self::Assistant => &[Self::User, Self::Tool],
            Self::Tool => &[Self::Tool, Self::Assistant],
        }
    }
}

/// Keys that say whether a turn is learned: OpenAI's 0 or 1, and the booleans of other trainers.
const LEARN_KEYS: [&str; 3] = ["weight", "train", "training"];
/// Names under which templates look for what the assistant thought; a row's own stands under all of them.
const REASONING_KEYS: [&str; 2] = ["reasoning_content", "thinking"];

/// One turn. Keys beside `role` and `content`, such as `tool_calls`, reach the template as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Whether an assistant's turn is learned; a row can except turns of its own.
    pub(crate) learned: bool,
    /// The whole object as the template sees it.
    pub(crate) value: Map<String, Value>,
}

impl Message {
    /// A turn of plain text.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let mut value = Map::new();
        value.insert("role".into(), role.name().into());
        value.insert("content".into(), content.into().into());
        Self { role, learned: true, value }
    }

    /// Reads one object of a `messages` list.
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let mut object = value.as_object().cloned().ok_or_else(|| {
            format!("is {}, expected an object with `role` and `content`", brief(value))
        })?;
        let learned = learned(&mut object)?;
        let role = object.get("role").ok_or("has no `role`")?;
        let role = role.as_str().and_then(Role::of).ok_or_else(|| {
            format!("has role {}, expected system, user, assistant or tool", brief(role))
        })?;
        match object.get("content") {
            Some(Value::String(_)) => {}
            None | Some(Value::Null) if object.contains_key("tool_calls") => {}
            Some(Value::Array(parts)) if parts.iter().all(|part| part["text"].is_string()) => {}
            Some(Value::Array(_)) => {
                return Err("has a part of `content` that is no text; only text is trained".into());
            }
            None => return Err("has no `content`".into()),
            Some(other) => return Err(format!("has content {}, expected text", brief(other))),
        }
        if role != Role::Assistant && learned == Some(true) {
            return Err(format!(
                "is by `{}` and to be learned, but only the assistant's turns are",
                role.name()
            ));
        }
        read_arguments(&mut object)?;
        let thought = REASONING_KEYS.iter().find_map(|key| object.get(*key)).cloned();
        if let Some(thought) = thought.filter(|thought| !thought.is_null()) {
            if !thought.is_string() {
                return Err(format!("has reasoning {}, expected text", brief(&thought)));
            }
            for key in REASONING_KEYS {
                object.insert(key.into(), thought.clone());
            }
        }
        // The template sees the role under one name.
        object.insert("role".into(), role.name().into());
        Ok(Self { role, learned: learned.unwrap_or(true), value: object })
    }

    /// The functions it calls.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &str> {
        let calls = self.value.get("tool_calls").and_then(Value::as_array);
        calls
            .into_iter()
            .flatten()
            .filter_map(|call| call["function"]["name"].as_str().or_else(|| call["name"].as_str()))
    }

    /// What the assistant thought before it spoke.
    pub(crate) fn reasoning(&self) -> Option<&str> {
        self.value.get(REASONING_KEYS[0]).and_then(Value::as_str)
    }

    /// The text of the turn, if it is plain.
    pub(crate) fn content(&self) -> Option<&str> {
        self.value.get("content").and_then(Value::as_str)
    }
}

/// Takes out what says whether the turn is learned: templates are not to see it.
fn learned(object: &mut Map<String, Value>) -> Result<Option<bool>, String> {
    let mut learned = None;
    for key in LEARN_KEYS {
        learned = match object.shift_remove(key) {
            None | Some(Value::Null) => learned,
            Some(Value::Bool(on)) => Some(on),
            Some(Value::Number(n)) if n.as_f64() == Some(0.0) => Some(false),
            Some(Value::Number(n)) if n.as_f64() == Some(1.0) => Some(true),
            Some(other) => {
                return Err(format!("has `{key}` {}, expected 0, 1, true or false", brief(&other)));
            }
        };
    }
    Ok(learned)
}

/// Arguments of tool calls come as objects or, from OpenAI's interface, as their JSON text; templates expect objects.
fn read_arguments(object: &mut Map<String, Value>) -> Result<(), String> {
    let calls = match object.get_mut("tool_calls") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(format!("has `tool_calls` {}, expected a list", brief(other))),
    };
    for (i, call) in calls.iter_mut().enumerate() {
        let function = match call.get_mut("function") {
            Some(function) => function,
            None => call,
        };
        if !function["name"].is_string() {
            return Err(format!("has a `tool_calls[{i}]` without the name of a function"));
        }
        if let Some(Value::String(text)) = function.get("arguments") {
            let read = serde_json::from_str::<Value>(text);
            function["arguments"] = read.map_err(|e| {
                format!("has `tool_calls[{i}]` with arguments that are no JSON: {e}")
            })?;
        }
    }
    Ok(())
}

/// Messages in an order a chat can have.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    pub(crate) messages: Vec<Message>,
    /// Descriptions of tools, if the row has any.
    pub(crate) tools: Option<Value>,
}

impl Conversation {
    /// Checks who speaks after whom.
    ///
    /// # Errors
    /// The first turn out of order, by its number from 1.
    pub fn new(messages: Vec<Message>) -> Result<Self, String> {
        let mut allowed: &[Role] = &[Role::System, Role::User];
        let mut before = "at the beginning".to_owned();
        for (i, message) in messages.iter().enumerate() {
            if !allowed.contains(&message.role) {
                let expected: Vec<_> = allowed.iter().map(|role| role.name()).collect();
                return Err(format!(
                    "message {} is by `{}` {before}, expected `{}`",
                    i + 1,
                    message.role.name(),
                    expected.join("` or `")
                ));
            }
            allowed = message.role.successors();
            before = format!("after `{}`", message.role.name());
        }
        if messages.is_empty() {
            return Err("the conversation is empty".into());
        }
        Ok(Self { messages, tools: None })
    }

    /// The assistant's messages, by their number from 0.
    pub(crate) fn assistant_turns(&self) -> impl Iterator<Item = usize> {
        let roles = self.messages.iter().map(|message| message.role).enumerate();
        roles.filter(|(_, role)| *role == Role::Assistant).map(|(i, _)| i)
    }

    /// What the last message says.
    pub(crate) fn last_text(&self) -> &str {
        self.messages.last().and_then(Message::content).unwrap_or_default()
    }

    /// One question.
    #[must_use]
    pub fn question(text: &str) -> Self {
        Self { messages: vec![Message::new(Role::User, text)], tools: None }
    }
}

/// A JSON value in a few characters, for an error message.
pub(crate) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("`{}…`", &text[..at]),
        None => format!("`{text}`"),
    }
}
