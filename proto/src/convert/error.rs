//! What can be wrong with a message, and where.

use thiserror::Error;

/// A message that says nothing sensible: the path of its field and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("field `{field}` {why}")]
pub struct ConvertError {
    /// Names from the message's top, joined by dots.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl ConvertError {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { field: String::new(), why: why.into() }
    }

    fn within(mut self, field: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{field}{dot}{}", self.field);
        self
    }
}

/// Names the field an error came from.
pub(super) trait Field<T> {
    fn field(self, name: &str) -> Result<T, ConvertError>;
}

impl<T> Field<T> for Result<T, ConvertError> {
    fn field(self, name: &str) -> Self {
        self.map_err(|error| error.within(name))
    }
}

/// A message that must be there.
pub(super) fn required<W, T>(field: &str, value: Option<W>) -> Result<T, ConvertError>
where
    T: TryFrom<W, Error = ConvertError>,
{
    value.ok_or_else(|| ConvertError::new("is missing")).and_then(T::try_from).field(field)
}

/// A message that may be there.
pub(super) fn optional<W, T>(field: &str, value: Option<W>) -> Result<Option<T>, ConvertError>
where
    T: TryFrom<W, Error = ConvertError>,
{
    value.map(T::try_from).transpose().field(field)
}

/// Messages, one by one.
pub(super) fn list<W, T>(field: &str, values: Vec<W>) -> Result<Vec<T>, ConvertError>
where
    T: TryFrom<W, Error = ConvertError>,
{
    let one = |(i, value)| T::try_from(value).field(&format!("[{i}]"));
    values.into_iter().enumerate().map(one).collect::<Result<_, _>>().field(field)
}

/// An enum by its number.
pub(super) fn enumeration<W, T>(field: &str, number: i32) -> Result<T, ConvertError>
where
    W: TryFrom<i32>,
    T: TryFrom<W, Error = ConvertError>,
{
    W::try_from(number)
        .map_err(|_| ConvertError::new(format!("is {number}, which no value has")))
        .and_then(T::try_from)
        .field(field)
}

/// A text for people: 1 to 200 characters, none of them a control character.
pub(super) fn text(field: &str, value: String) -> Result<String, ConvertError> {
    if !(1..=200).contains(&value.chars().count()) {
        Err(ConvertError::new("is empty or longer than 200 characters")).field(field)
    } else if value.chars().any(char::is_control) {
        Err(ConvertError::new("holds control characters")).field(field)
    } else {
        Ok(value)
    }
}
