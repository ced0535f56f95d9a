//! A number that may differ from layer to layer.

use serde::{Deserialize, Serialize};

/// A parameter as mergekit writes it: a number, a gradient over the layers, or either by parts of tensor names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// The same everywhere.
    Number(f64),
    /// Spread evenly over the layers, straight lines between.
    Gradient(Vec<f64>),
    /// The first entry whose filter is part of the tensor's name.
    Filtered(Vec<Filtered>),
}

/// One entry of [`Setting::Filtered`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filtered {
    /// Part of a tensor's name; `*` or none for every tensor.
    #[serde(default)]
    pub filter: Option<String>,
    /// What holds there.
    pub value: Plain,
}

/// A setting without filters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Plain {
    /// The same everywhere.
    Number(f64),
    /// As [`Setting::Gradient`].
    Gradient(Vec<f64>),
}

impl Setting {
    /// The number for the tensor `name`, whose layer stands at `depth`: 0 for the first, 1 for the last. `None` where
    /// no filter fits.
    #[must_use]
    pub fn at(&self, name: &str, depth: f64) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Gradient(points) => gradient(points, depth),
            Self::Filtered(entries) => {
                let fits = |filter: &str| filter == "*" || name.contains(filter);
                let entry = entries.iter().find(|e| e.filter.as_deref().is_none_or(fits))?;
                match &entry.value {
                    Plain::Number(number) => Some(*number),
                    Plain::Gradient(points) => gradient(points, depth),
                }
            }
        }
    }

    /// Every number that is written, for checking ranges.
    pub(super) fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Number(number) => vec![*number],
            Self::Gradient(points) => points.clone(),
            Self::Filtered(entries) => entries
                .iter()
                .flat_map(|entry| match &entry.value {
                    Plain::Number(number) => vec![*number],
                    Plain::Gradient(points) => points.clone(),
                })
                .collect(),
        }
    }
}

fn gradient(points: &[f64], depth: f64) -> Option<f64> {
    let last = points.len().checked_sub(1)?;
    let at = depth.clamp(0.0, 1.0) * last as f64;
    let before = (at as usize).min(last);
    let after = (before + 1).min(last);
    let share = at - before as f64;
    Some((1.0 - share) * points[before] + share * points[after])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_is_spread_over_the_layers() {
        let setting = Setting::Gradient(vec![0.0, 0.5, 0.3]);
        for (depth, expected) in [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.75, 0.4), (1.0, 0.3)] {
            let found = setting.at("", depth).unwrap();
            assert!((found - expected).abs() < 1e-12, "{depth}: {found}");
        }
        assert_eq!(Setting::Gradient(vec![2.0]).at("", 0.7), Some(2.0));
    }

    #[test]
    fn the_first_filter_that_fits_decides() {
        let text =
            r#"[{"filter": "self_attn", "value": [0, 1]}, {"filter": "mlp", "value": 0.25}]"#;
        let mut setting: Setting = serde_json::from_str(text).unwrap();
        assert_eq!(setting.at("model.layers.0.self_attn.q_proj.weight", 0.5), Some(0.5));
        assert_eq!(setting.at("model.layers.0.mlp.up_proj.weight", 0.5), Some(0.25));
        assert_eq!(setting.at("model.norm.weight", 1.0), None);
        let Setting::Filtered(entries) = &mut setting else { panic!("{setting:?}") };
        entries.push(Filtered { filter: None, value: Plain::Number(3.0) });
        assert_eq!(setting.at("model.norm.weight", 1.0), Some(3.0));
    }
}
