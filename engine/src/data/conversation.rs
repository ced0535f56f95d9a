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

    fn of(name: &str) -> Option<Self> {
        let roles = [Self::System, Self::User, Self::Assistant, Self::Tool];
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

/// One turn. Keys beside `role` and `content`, such as `tool_calls`, reach the template as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
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
        Self { role, value }
    }

    /// Reads one object of a `messages` list.
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or_else(|| {
            format!("is {}, expected an object with `role` and `content`", brief(value))
        })?;
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
        Ok(Self { role, value: object.clone() })
    }

    /// The text of the turn, if it is plain.
    pub(crate) fn content(&self) -> Option<&str> {
        self.value.get("content").and_then(Value::as_str)
    }
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
