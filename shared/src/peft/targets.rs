//! Which modules an adapter is laid beside, by PEFT's rules (`check_target_module_exists`).

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use super::{AdapterConfig, AdapterShape, ModuleKind};
use crate::recipe::{PeftType, TargetModules};

/// A compiled pattern may not grow beyond this.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A key that names no modules, or not in a way that can be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{key}` is {found}, expected {expected}")]
pub struct TargetError {
    /// The key.
    pub key: &'static str,
    /// What it holds.
    pub found: String,
    /// What it may hold.
    pub expected: String,
}

impl TargetError {
    pub(super) fn new(
        key: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self { key, found: found.into(), expected: expected.into() }
    }
}

/// A set of modules, as PEFT writes one.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Every linear layer but the head.
    AllLinear,
    /// Whole names, or the last parts of names.
    Names(Vec<String>),
    /// A regular expression that has to match the whole name.
    Regex(Regex),
}

impl Pattern {
    /// Reads the value of `key`.
    ///
    /// # Errors
    /// [`TargetError`] for an empty list and for an expression that is none, or none that can be matched in linear
    /// time.
    pub fn new(key: &'static str, modules: &TargetModules) -> Result<Self, TargetError> {
        match modules {
            TargetModules::Word(word) if word.eq_ignore_ascii_case("all-linear") => {
                Ok(Self::AllLinear)
            }
            TargetModules::Word(word) => {
                Ok(Self::Regex(expression(key, word, &format!("^(?:{word})$"))?))
            }
            TargetModules::Names(names) if names.is_empty() => Err(TargetError::new(
                key,
                "an empty list",
                "names of modules, a regular expression or `all-linear`",
            )),
            TargetModules::Names(names) => Ok(Self::Names(names.clone())),
        }
    }

    /// Whether `module`, such as `model.layers.0.self_attn.q_proj`, is in the set.
    #[must_use]
    pub fn matches(&self, module: &str, kind: ModuleKind) -> bool {
        match self {
            Self::AllLinear => kind == ModuleKind::Linear,
            Self::Names(names) => names.iter().any(|name| ends_with(module, name)),
            Self::Regex(regex) => regex.is_match(module),
        }
    }
}

/// Whether `name` is `module` or its last parts.
pub(super) fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// Compiles what a user wrote, within bounds.
pub(crate) fn compile(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build()
}

/// `written` is what the user wrote, `text` what is compiled for it.
fn expression(key: &'static str, written: &str, text: &str) -> Result<Regex, TargetError> {
    compile(text).map_err(|error| {
        let why = match error {
            regex::Error::CompiledTooBig(_) => "one that compiles to less than 1 MiB".into(),
            error => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                format!("a regular expression without look-around and back-references ({last})")
            }
        };
        TargetError::new(key, format!("`{}`", written.escape_debug()), why)
    })
}

/// The modules a configuration lays adapters beside, and what it lays there.
#[derive(Clone, Debug)]
pub struct AdapterTargets {
    include: Pattern,
    exclude: Option<Pattern>,
    /// Trained whole, hence never adapted.
    saved: Vec<String>,
    /// Blocks and what finds a block's number in a module's name.
    layers: Option<(Vec<usize>, Vec<Regex>)>,
    beside: Beside,
}

#[derive(Clone, Debug)]
enum Beside {
    Lora { r: usize, alpha: f64, root: bool, ranks: Patterns<usize>, alphas: Patterns<f64> },
    Scale { feedforward: Option<Pattern> },
}

/// In alphabetical order, which is the order PEFT stores them in.
type Patterns<T> = Vec<(Regex, T)>;

impl AdapterTargets {
    /// The modules that `config` names.
    ///
    /// # Errors
    /// [`TargetError`] naming the key.
    pub fn of(config: &AdapterConfig) -> Result<Self, TargetError> {
        let include = Pattern::new("target_modules", &config.target_modules)?;
        let exclude = match &config.exclude_modules {
            None => None,
            Some(TargetModules::Names(names)) if names.is_empty() => None,
            Some(modules) => Some(Pattern::new("exclude_modules", modules)?),
        };
        let layers = match config.layers_to_transform.as_ref().map(|layers| layers.to_vec()) {
            None => None,
            Some(layers) if layers.is_empty() => None,
            Some(_) if matches!(include, Pattern::Regex(_)) => {
                return Err(TargetError::new(
                    "layers_to_transform",
                    "set",
                    "absent where `target_modules` is a regular expression, which can name blocks itself",
                ));
            }
            Some(layers) => {
                let patterns = config.layers_pattern.iter().flat_map(|patterns| patterns.to_vec());
                let patterns: Vec<String> = patterns.filter(|p| !p.is_empty()).collect();
                let mut finders = Vec::new();
                for pattern in &patterns {
                    let text = format!(r"^(?:.*?\.)?(?:{pattern})\.(?P<index>\d+)\.");
                    finders.push(expression("layers_pattern", pattern, &text)?);
                }
                if finders.is_empty() {
                    let any = r"^.*?\.[^.]*\.(?P<index>\d+)\.";
                    finders.push(expression("layers_pattern", any, any)?);
                }
                Some((layers, finders))
            }
        };
        let saved = config.modules_to_save.clone().unwrap_or_default();
        let beside = match config.peft_type {
            PeftType::Lora => Beside::Lora {
                r: config.r,
                alpha: config.lora_alpha,
                root: config.use_rslora,
                ranks: patterns("rank_pattern", &config.rank_pattern)?,
                alphas: patterns("alpha_pattern", &config.alpha_pattern)?,
            },
            PeftType::Ia3 => Beside::Scale {
                feedforward: match &config.feedforward_modules {
                    None => None,
                    Some(TargetModules::Names(names)) if names.is_empty() => None,
                    Some(modules) => Some(Pattern::new("feedforward_modules", modules)?),
                },
            },
        };
        Ok(Self { include, exclude, saved, layers, beside })
    }

    /// What lies beside `module`, if something does.
    #[must_use]
    pub fn shape(&self, module: &str, kind: ModuleKind) -> Option<AdapterShape> {
        self.matches(module, kind).then(|| match &self.beside {
            Beside::Lora { r, alpha, root, ranks, alphas } => {
                let (r, alpha) =
                    (by_pattern(ranks, module, *r), by_pattern(alphas, module, *alpha));
                let divisor = if *root { (r as f64).sqrt() } else { r as f64 };
                AdapterShape::Lora { r, scaling: alpha / divisor }
            }
            Beside::Scale { feedforward } => AdapterShape::Scale {
                feedforward: feedforward.as_ref().is_some_and(|p| p.matches(module, kind)),
            },
        })
    }

    /// Whether `module` gets an adapter.
    #[must_use]
    pub fn matches(&self, module: &str, kind: ModuleKind) -> bool {
        let excluded = self.exclude.as_ref().is_some_and(|pattern| pattern.matches(module, kind));
        if excluded || self.saved.iter().any(|name| has_part(module, name)) {
            return false;
        }
        if !self.include.matches(module, kind) {
            return false;
        }
        match (&self.layers, &self.include) {
            (None, _) => true,
            // A module that is named in full was asked for, wherever it is.
            (_, Pattern::Names(names)) if names.iter().any(|name| name == module) => true,
            (Some((layers, finders)), _) => {
                let index = finders.iter().find_map(|finder| finder.captures(module));
                let index = index.and_then(|found| found["index"].parse().ok());
                index.is_some_and(|index: usize| layers.contains(&index))
            }
        }
    }

    /// Names of a list that are found in none of `modules`.
    pub(super) fn unknown<'a>(
        &'a self,
        modules: &'a [(String, ModuleKind)],
    ) -> impl Iterator<Item = &'a str> {
        let names = match &self.include {
            Pattern::Names(names) => names.as_slice(),
            _ => &[],
        };
        let known = |name: &str| modules.iter().any(|(module, _)| ends_with(module, name));
        names.iter().map(String::as_str).filter(move |name| !known(name))
    }
}

/// Whether the dotted `name` stands somewhere in `module`, whole parts only.
fn has_part(module: &str, name: &str) -> bool {
    format!(".{module}.").contains(&format!(".{name}."))
}

fn patterns<T: Copy>(
    key: &'static str,
    patterns: &BTreeMap<String, T>,
) -> Result<Patterns<T>, TargetError> {
    let compile = |(pattern, value): (&String, &T)| {
        Ok((expression(key, pattern, &format!(r"^(?:.*\.)?(?:{pattern})$"))?, *value))
    };
    patterns.iter().map(compile).collect()
}

/// The value of the first pattern that `module` ends with, by PEFT's `get_pattern_key`: each key is a regular
/// expression for the last parts of a name.
fn by_pattern<T: Copy>(patterns: &Patterns<T>, module: &str, default: T) -> T {
    let found = patterns.iter().find(|(regex, _)| regex.is_match(module));
    found.map_or(default, |(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{OneOrMany, OneOrManyLayers};

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const Q1: &str = "model.layers.1.self_attn.q_proj";
    const UP: &str = "model.layers.1.mlp.up_proj";

    fn word(text: &str) -> TargetModules {
        TargetModules::Word(text.into())
    }

    fn names(names: &[&str]) -> TargetModules {
        TargetModules::Names(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn config(target_modules: TargetModules) -> AdapterConfig {
        AdapterConfig { target_modules, ..AdapterConfig::default() }
    }

    fn named(config: &AdapterConfig) -> Vec<&'static str> {
        let targets = AdapterTargets::of(config).unwrap();
        let linear = [Q0, Q1, UP].map(|module| (module, ModuleKind::Linear));
        let others = [("lm_head", ModuleKind::Head), ("model.embed_tokens", ModuleKind::Embedding)];
        let all = linear.into_iter().chain(others);
        all.filter(|(module, kind)| targets.matches(module, *kind))
            .map(|(module, _)| module)
            .collect()
    }

    #[test]
    fn names_are_whole_or_last_parts() {
        assert_eq!(named(&config(names(&["q_proj"]))), [Q0, Q1]);
        assert_eq!(named(&config(names(&["self_attn.q_proj"]))), [Q0, Q1]);
        assert_eq!(named(&config(names(&[Q1, "lm_head"]))), [Q1, "lm_head"]);
        assert_eq!(named(&config(names(&["proj"]))), [""; 0]);
    }

    #[test]
    fn an_expression_matches_the_whole_name() {
        assert_eq!(named(&config(word(r".*\.(q|up)_proj"))), [Q0, Q1, UP]);
        assert_eq!(named(&config(word(r"q_proj"))), [""; 0]);
        assert_eq!(named(&config(word(r"model\.layers\.1\..*"))), [Q1, UP]);
        assert_eq!(named(&config(word("a|.*up_proj"))), [UP]);
    }

    #[test]
    fn all_linear_leaves_head_and_embedding_out() {
        assert_eq!(named(&config(word("all-linear"))), [Q0, Q1, UP]);
        assert_eq!(named(&config(word("ALL-linear"))), [Q0, Q1, UP]);
    }

    #[test]
    fn what_is_excluded_or_saved_whole_is_not_adapted() {
        let all = config(word("all-linear"));
        let without = |exclude_modules| AdapterConfig { exclude_modules, ..all.clone() };
        assert_eq!(named(&without(Some(names(&["q_proj"])))), [UP]);
        assert_eq!(named(&without(Some(word(r".*\.0\..*")))), [Q1, UP]);
        let modules_to_save = Some(vec!["up_proj".to_owned()]);
        assert_eq!(named(&AdapterConfig { modules_to_save, ..all.clone() }), [Q0, Q1]);
    }

    #[test]
    fn some_blocks_only() {
        let ends = config(names(&["q_proj", UP]));
        let some = |layers| AdapterConfig { layers_to_transform: Some(layers), ..ends.clone() };
        assert_eq!(named(&some(OneOrManyLayers::One(0))), [Q0, UP]);
        assert_eq!(named(&some(OneOrManyLayers::Many(vec![1, 7]))), [Q1, UP]);
        let pattern = |pattern: &str| AdapterConfig {
            layers_pattern: Some(OneOrMany::One(pattern.into())),
            ..some(OneOrManyLayers::One(1))
        };
        assert_eq!(named(&pattern("layers")), [Q1, UP]);
        assert_eq!(named(&pattern("h")), [UP]);
    }

    #[test]
    fn patterns_that_cannot_be_are_named() {
        let refused = |config: AdapterConfig| AdapterTargets::of(&config).unwrap_err().to_string();
        let message = refused(config(word("(?=q).*")));
        assert!(message.contains("`(?=q).*`") && message.contains("look-around"), "{message}");
        let message = refused(config(word("q{1000}{1000}")));
        assert!(message.contains("1 MiB"), "{message}");
        assert!(refused(config(names(&[]))).contains("an empty list"));
        let both = AdapterConfig {
            layers_to_transform: Some(OneOrManyLayers::One(1)),
            ..config(word(".*q_proj"))
        };
        assert!(refused(both).contains("`layers_to_transform` is set"));
    }
}
