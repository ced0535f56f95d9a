//! Checks of single values.

use std::fmt::Display;

use super::super::RecipeError;

pub(super) fn refuse<T>(
    key: &str,
    found: impl Display,
    expected: impl Display,
) -> Result<T, RecipeError> {
    Err(RecipeError::Value {
        key: key.into(),
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

/// A number within `low..=high`; NaN is in no range.
pub(super) fn number(
    key: &str,
    value: Option<f64>,
    default: f64,
    low: f64,
    high: f64,
) -> Result<f64, RecipeError> {
    let value = value.unwrap_or(default);
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        refuse(key, value, format!("{} to {}", short(low), short(high)))
    }
}

/// What "above zero" means for rates, epochs and factors.
pub(super) const SMALLEST: f64 = 1e-12;

/// A bound as people write it: `1e-12`, not a dozen zeros.
fn short(bound: f64) -> String {
    if bound != 0.0 && bound < 1e-3 { format!("{bound:e}") } else { bound.to_string() }
}

pub(super) fn count(
    key: &str,
    value: Option<u64>,
    default: u64,
    low: u64,
    high: u64,
) -> Result<usize, RecipeError> {
    let value = value.unwrap_or(default);
    if (low..=high).contains(&value) {
        usize::try_from(value).or_else(|_| refuse(key, value, "a smaller number"))
    } else {
        refuse(key, value, format!("{low} to {high}"))
    }
}

pub(super) fn path(
    key: &'static str,
    value: Option<&String>,
) -> Result<Option<String>, RecipeError> {
    match value {
        Some(text) if text.is_empty() || text.contains('\0') => {
            refuse(key, format!("{text:?}"), "a path")
        }
        other => Ok(other.cloned()),
    }
}
