//! From text to [`RecipeFile`]: YAML or JSON, unknown keys refused with the nearest known one.

use std::sync::LazyLock;

use schemars::schema_for;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Recipe, RecipeFile};

/// Why a recipe was refused.
#[derive(Debug, Error, PartialEq)]
pub enum RecipeError {
    /// Neither YAML nor JSON, or beyond the reader's limits (depth, aliases, size).
    #[error("recipe: not readable as YAML or JSON: {0}")]
    Syntax(String),
    /// A key nobody knows.
    #[error("recipe: unknown key `{key}`{}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// As written.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A key that holds the wrong kind of value.
    #[error("recipe: {0}")]
    Type(String),
    /// A value out of range, or two that contradict each other.
    #[error("recipe: `{key}` is {found}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        expected: String,
    },
    /// A key that must be there.
    #[error("recipe: `{key}` is missing, expected {expected}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
}

/// Recipes are small; a larger text is a mistake or an attack.
const BYTES_MAX: usize = 1 << 20;

impl RecipeFile {
    /// Reads a recipe from YAML or JSON (every JSON text is YAML, but JSON's own errors are clearer).
    ///
    /// # Errors
    /// [`RecipeError::Syntax`], [`RecipeError::UnknownKey`] or [`RecipeError::Type`].
    pub fn read(text: &str) -> Result<Self, RecipeError> {
        if text.len() > BYTES_MAX {
            let kib = text.len() / 1024;
            return Err(RecipeError::Syntax(format!(
                "{kib} KiB of text, expected at most 1024 KiB"
            )));
        }
        let value: Value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| RecipeError::Syntax(e.to_string()))?
        } else {
            serde_saphyr::from_str(text).map_err(|e| RecipeError::Syntax(e.to_string()))?
        };
        Self::from_value(value)
    }

    /// Reads a recipe from a JSON value.
    ///
    /// # Errors
    /// [`RecipeError::UnknownKey`] or [`RecipeError::Type`].
    pub fn from_value(value: Value) -> Result<Self, RecipeError> {
        let Value::Object(map) = &value else {
            return Err(RecipeError::Type("expected keys and values at the top".into()));
        };
        if let Some(key) = map.keys().find(|key| !KEYS.contains(key)) {
            return Err(RecipeError::UnknownKey { key: key.clone(), nearest: nearest_key(key) });
        }
        Self::deserialize(&value).map_err(|error| mistyped(map, &error))
    }
}

/// Reads a refused recipe once more, key by key, so that a mistyped value is reported with its key.
fn mistyped(map: &Map<String, Value>, whole: &serde_json::Error) -> RecipeError {
    let alone = |(key, value): (&String, &Value)| {
        let one = Value::Object([(key.clone(), value.clone())].into_iter().collect());
        let error = RecipeFile::deserialize(&one).err()?;
        Some(format!("`{key}` is {}: {error}", abridged(value)))
    };
    RecipeError::Type(map.iter().find_map(alone).unwrap_or_else(|| whole.to_string()))
}

impl Recipe {
    /// Reads and validates a recipe.
    ///
    /// # Errors
    /// Any [`RecipeError`].
    pub fn read(text: &str) -> Result<Self, RecipeError> {
        RecipeFile::read(text)?.try_into()
    }
}

/// The JSON Schema of [`RecipeFile`], for editors.
#[must_use]
pub fn schema() -> Value {
    schema_for!(RecipeFile).to_value()
}

/// Every key there is. A coordinator reads a thousand recipes per second, and the schema does not change in between.
static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    schema()["properties"].as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default()
});

/// The known key that looks most like `key`, if one does.
#[must_use]
pub fn nearest_key(key: &str) -> Option<String> {
    KEYS.iter()
        .map(|known| (strsim::jaro_winkler(key, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.75)
        .map(|(_, known)| known.clone())
}

fn abridged(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
