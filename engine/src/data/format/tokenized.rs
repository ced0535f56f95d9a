//! Rows that are tokens already, made elsewhere.

use serde_json::Value;

use super::columns::{Columns, list};
use crate::data::batch::{IGNORED, Row};
use crate::data::conversation::brief;

/// Token ids and labels as TRL stores them. Padding marked by `attention_mask` is cut off.
pub(super) fn tokenized(columns: &Columns, vocab_size: usize) -> Result<Row, String> {
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
