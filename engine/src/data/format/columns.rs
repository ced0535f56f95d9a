//! Reading the columns of a row: what is missing or of the wrong kind is named.

use serde_json::{Map, Value};

use crate::data::conversation::brief;

/// A row's columns, or the keys of an object inside one.
pub(crate) type Columns = Map<String, Value>;

/// The names of all columns, for an error message.
pub(crate) fn names(columns: &Columns) -> String {
    let names: Vec<_> = columns.keys().map(String::as_str).collect();
    if names.is_empty() { "none".into() } else { format!("`{}`", names.join("`, `")) }
}

/// A column that must be there.
pub(crate) fn required<'a>(columns: &'a Columns, name: &str) -> Result<&'a Value, String> {
    given(columns, name)
        .ok_or_else(|| format!("column `{name}` is missing; found {}", names(columns)))
}

/// A column that is there and not null.
pub(crate) fn given<'a>(columns: &'a Columns, name: &str) -> Option<&'a Value> {
    columns.get(name).filter(|value| !value.is_null())
}

/// A column of text.
pub(crate) fn text<'a>(columns: &'a Columns, name: &str) -> Result<&'a str, String> {
    let value = required(columns, name)?;
    value.as_str().ok_or_else(|| format!("column `{name}` is {}, expected text", brief(value)))
}

/// A column of text that may be absent, null or empty.
pub(crate) fn text_if_any<'a>(columns: &'a Columns, name: &str) -> Result<Option<&'a str>, String> {
    let found = given(columns, name).map(|_| text(columns, name)).transpose()?;
    Ok(found.filter(|text| !text.is_empty()))
}

/// A column that is a list.
pub(crate) fn list<'a>(columns: &'a Columns, name: &str) -> Result<&'a [Value], String> {
    let value = required(columns, name)?;
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| format!("column `{name}` is {}, expected a list", brief(value)))
}
