//! One object of `config.json` with typed access.

use serde_json::{Map, Value};

use super::ModelSpecError;

pub(crate) const CONFIG: &str = "config.json";

/// The object that a `config.json` is.
pub(crate) fn object(text: &str) -> Result<Map<String, Value>, ModelSpecError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ModelSpecError::Json("it is another JSON value".into())),
        Err(error) => Err(ModelSpecError::Json(error.to_string())),
    }
}

/// One object of `config.json` with typed access.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) object: &'a Map<String, Value>,
    /// What stands before a key of this object in messages, such as `rope_scaling.`.
    pub(super) path: &'static str,
}

impl Keys<'_> {
    pub(super) fn optional<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ModelSpecError> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| self.wrong(key, format!("is {value}"), expected)),
        }
    }

    pub(super) fn required<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, ModelSpecError> {
        self.optional(key, expected, read)?
            .ok_or_else(|| self.wrong(key, "is missing".into(), expected))
    }

    /// As [`Self::optional`], with `default` only where the key is absent: an explicit null means there is none.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: Option<T>,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ModelSpecError> {
        if self.object.contains_key(key) { self.optional(key, expected, read) } else { Ok(default) }
    }

    pub(super) fn count(&self, key: &str) -> Result<usize, ModelSpecError> {
        self.required(key, COUNT, positive)
    }

    pub(super) fn optional_count(&self, key: &str) -> Result<Option<usize>, ModelSpecError> {
        self.optional(key, COUNT, positive)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ModelSpecError> {
        self.optional(key, "true or false", Value::as_bool)
    }

    pub(super) fn number(&self, key: &str) -> Result<f64, ModelSpecError> {
        self.required(key, NUMBER, positive_number)
    }

    pub(super) fn optional_number(&self, key: &str) -> Result<Option<f64>, ModelSpecError> {
        self.optional(key, NUMBER, positive_number)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ModelSpecError> {
        self.optional(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn wrong(&self, key: &str, found: String, expected: &'static str) -> ModelSpecError {
        ModelSpecError::Key { place: CONFIG, key: format!("{}{key}", self.path), found, expected }
    }
}

pub(super) const COUNT: &str = "a positive whole number";
pub(super) const NUMBER: &str = "a positive number";

pub(super) fn positive(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

pub(super) fn positive_number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| n.is_finite() && *n > 0.0)
}

pub(super) fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

pub(super) fn tokens(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Array(items) => items.iter().map(token).collect(),
        other => token(other).map(|t| vec![t]),
    }
}
