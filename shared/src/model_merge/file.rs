//! From text to a [`ModelMerge`]: unknown keys refused, every value checked where it stands.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::{MergeDtype, MergedModel, ModelMerge, ModelMergeMethod, Setting};

/// Why a merge file was refused.
#[derive(Debug, Error, PartialEq)]
#[error("merge file: {0}")]
pub struct ModelMergeError(String);

/// Merge files are small; a larger text is a mistake.
const BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    merge_method: String,
    models: Vec<ModelEntry>,
    #[serde(default)]
    base_model: Option<String>,
    #[serde(default)]
    parameters: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    dtype: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    model: String,
    #[serde(default)]
    parameters: Option<BTreeMap<String, Value>>,
}

impl ModelMerge {
    /// Reads a merge file, YAML or JSON.
    ///
    /// # Errors
    /// [`ModelMergeError`] naming the key, what it holds and what it may hold.
    pub fn read(text: &str) -> Result<Self, ModelMergeError> {
        if text.len() > BYTES_MAX {
            return fail(format!("{} KiB of text, expected at most 1024", text.len() / 1024));
        }
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|e| ModelMergeError(format!("not readable as YAML: {e}")))?;
        if value.get("slices").is_some() {
            return fail("`slices` is not supported, name whole models under `models`".into());
        }
        let file: File =
            serde_json::from_value(value).map_err(|e| ModelMergeError(e.to_string()))?;
        file.validate()
    }
}

fn fail<T>(why: String) -> Result<T, ModelMergeError> {
    Err(ModelMergeError(why))
}

impl File {
    fn validate(self) -> Result<ModelMerge, ModelMergeError> {
        let named = |(name, _): &(&str, ModelMergeMethod)| *name == self.merge_method;
        let Some((_, method)) = ModelMergeMethod::ALL.into_iter().find(named) else {
            let known = ModelMergeMethod::ALL.map(|(name, _)| name).join(", ");
            let found = self.merge_method.escape_debug();
            return fail(format!("`merge_method` is {found}, expected one of {known}"));
        };
        let dtype = match self.dtype.as_deref().map(|name| (name, MergeDtype::named(name))) {
            None => None,
            Some((_, Some(dtype))) => Some(dtype),
            Some((name, None)) => {
                let found = name.escape_debug();
                return fail(format!("`dtype` is {found}, expected float32, float16 or bfloat16"));
            }
        };
        let base = self.base_model;
        match (&base, method) {
            (None, ModelMergeMethod::Linear) | (Some(_), _) => {}
            (None, _) => {
                return fail(format!("`base_model` is missing, which {} needs", method.name()));
            }
        }
        if method == ModelMergeMethod::Linear && base.is_some() {
            return fail("`base_model` has no place in linear, list it under `models`".into());
        }
        let global = Parameters::of("parameters", self.parameters, &method.global_keys())?;
        let mut models = Vec::new();
        for (at, entry) in self.models.into_iter().enumerate() {
            let place = format!("models[{at}].parameters");
            let own = Parameters::of(&place, entry.parameters, method.model_keys())?;
            if base.as_ref() == Some(&entry.model) {
                continue;
            }
            let setting = |key: &str| own.setting(key).or_else(|| global.setting(key));
            let weight = match setting("weight") {
                Some(weight) => weight,
                None if method == ModelMergeMethod::Slerp => Setting::Number(1.0),
                None => return fail(format!("{place}: `weight` is missing, expected a number")),
            };
            let density = setting("density").unwrap_or(Setting::Number(1.0));
            if density.numbers().iter().any(|d| !(*d > 0.0 && *d <= 1.0)) {
                return fail(format!("{place}: `density` is not above 0 and at most 1"));
            }
            models.push(MergedModel { path: entry.model, weight, density });
        }
        let expected = match method {
            ModelMergeMethod::Linear => models.len() >= 2,
            ModelMergeMethod::Slerp => models.len() == 1,
            _ => !models.is_empty(),
        };
        if !expected {
            let wanted = match method {
                ModelMergeMethod::Linear => "at least two",
                ModelMergeMethod::Slerp => "exactly one beside `base_model`",
                _ => "at least one beside `base_model`",
            };
            return fail(format!("`models` names {}, expected {wanted}", models.len()));
        }
        let t = global.setting("t");
        if method == ModelMergeMethod::Slerp && t.is_none() {
            return fail("parameters: `t` is missing, expected 0 (the base) to 1".into());
        }
        let default = matches!(method, ModelMergeMethod::Linear | ModelMergeMethod::Ties);
        Ok(ModelMerge {
            method,
            base,
            models,
            t: t.unwrap_or(Setting::Number(0.0)),
            normalize: global.flag("normalize")?.unwrap_or(default),
            lambda: global.number("lambda")?.unwrap_or(1.0),
            dtype,
        })
    }
}

impl ModelMergeMethod {
    fn model_keys(self) -> &'static [&'static str] {
        match self {
            Self::Slerp => &[],
            Self::Linear | Self::TaskArithmetic => &["weight"],
            _ => &["weight", "density"],
        }
    }

    fn global_keys(self) -> Vec<&'static str> {
        let own: &[&str] = match self {
            Self::Slerp => &["t"],
            Self::Linear => &["normalize"],
            // How mergekit keeps its masks; it changes nothing here.
            _ => &["normalize", "lambda", "int8_mask"],
        };
        [self.model_keys(), own].concat()
    }
}

/// One table of parameters, its keys known.
struct Parameters {
    place: String,
    values: BTreeMap<String, Value>,
}

impl Parameters {
    fn of(
        place: &str,
        values: Option<BTreeMap<String, Value>>,
        known: &[&str],
    ) -> Result<Self, ModelMergeError> {
        let values = values.unwrap_or_default();
        if let Some(key) = values.keys().find(|key| !known.contains(&key.as_str())) {
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let key = key.escape_debug();
            return fail(format!("{place}: unknown key `{key}`, expected {known}"));
        }
        for (key, value) in &values {
            if matches!(key.as_str(), "normalize" | "int8_mask" | "lambda") {
                continue;
            }
            let setting: Option<Setting> = serde_json::from_value(value.clone()).ok();
            if setting.is_none_or(|it| it.numbers().is_empty()) {
                return fail(format!(
                    "{place}: `{key}` is {value}, expected a number, a list of numbers, or a list of filter and value"
                ));
            }
        }
        Ok(Self { place: place.to_owned(), values })
    }

    /// A setting whose form was checked.
    fn setting(&self, key: &str) -> Option<Setting> {
        serde_json::from_value(self.values.get(key)?.clone()).ok()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ModelMergeError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        // mergekit takes numbers for flags.
        let flag = value.as_bool().or_else(|| value.as_f64().map(|x| x != 0.0));
        let wrong = || format!("{}: `{key}` is {value}, expected true or false", self.place);
        flag.map(Some).ok_or_else(|| ModelMergeError(wrong()))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ModelMergeError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let wrong = || format!("{}: `{key}` is {value}, expected a number", self.place);
        value.as_f64().map(Some).ok_or_else(|| ModelMergeError(wrong()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIES: &str = "
merge_method: ties
base_model: base
models:
  - model: base
  - model: chat
    parameters: {density: 0.5, weight: 0.6}
  - model: code
    parameters: {density: [0.2, 0.8], weight: 0.4}
parameters: {normalize: true, int8_mask: true}
dtype: bfloat16
";

    #[test]
    fn a_file_of_mergekits_is_read_as_it_reads_it() {
        let merge = ModelMerge::read(TIES).unwrap();
        assert_eq!(merge.method, ModelMergeMethod::Ties);
        assert_eq!(merge.base.as_deref(), Some("base"));
        let paths: Vec<&str> = merge.models.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["chat", "code"]);
        assert_eq!(merge.models[1].density, Setting::Gradient(vec![0.2, 0.8]));
        assert!(merge.normalize && merge.lambda == 1.0);
        assert_eq!(merge.dtype, Some(MergeDtype::Bfloat16));

        let slerp = "{merge_method: slerp, base_model: a, models: [{model: a}, {model: b}],
            parameters: {t: [{filter: mlp, value: 0.3}, {value: 0.5}]}}";
        let merge = ModelMerge::read(slerp).unwrap();
        assert_eq!(merge.t.at("model.layers.0.mlp.up_proj.weight", 0.0), Some(0.3));
        assert!(!merge.normalize);
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for (from, to, part) in [
            (
                "merge_method: ties",
                "merge_method: tie",
                "`merge_method` is tie, expected one of linear",
            ),
            ("dtype: bfloat16", "dtype: int8", "`dtype` is int8"),
            ("dtype: bfloat16", "dtyp: bfloat16", "unknown field `dtyp`"),
            ("dtype: bfloat16", "slices: []", "`slices` is not supported"),
            ("base_model: base\n", "", "`base_model` is missing, which ties needs"),
            ("weight: 0.4", "wait: 0.4", "models[2].parameters: unknown key `wait`"),
            (", weight: 0.4", "", "models[2].parameters: `weight` is missing"),
            ("weight: 0.4", "weight: heavy", "`weight` is \"heavy\", expected a number"),
            ("density: 0.5", "density: 0", "models[1].parameters: `density` is not above 0"),
            ("normalize: true", "normalise: true", "parameters: unknown key `normalise`"),
            ("normalize: true", "normalize: maybe", "`normalize` is \"maybe\""),
            ("merge_method: ties", "merge_method: slerp", "unknown key"),
        ] {
            let text = TIES.replace(from, to);
            assert_ne!(text, TIES, "{from}");
            let message = ModelMerge::read(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{to}: {message}");
        }
        let one = "{merge_method: linear, models: [{model: a, parameters: {weight: 1}}]}";
        let message = ModelMerge::read(one).unwrap_err().to_string();
        assert!(message.contains("`models` names 1, expected at least two"), "{message}");
        assert!(ModelMerge::read("[").is_err() && ModelMerge::read("3").is_err());
    }
}
