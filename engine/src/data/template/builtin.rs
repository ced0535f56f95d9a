//! Chat templates that a recipe can name, for models that come without one. They are written here and render, turn
//! for turn, what the models of their families were trained on; none of them rewrites earlier turns.

use crate::{EngineError, Result};

const TEMPLATES: [(&str, &str); 8] = [
    ("chatml", include_str!("builtin/chatml.jinja")),
    ("llama-3", include_str!("builtin/llama-3.jinja")),
    ("mistral", include_str!("builtin/mistral.jinja")),
    ("gemma", include_str!("builtin/gemma.jinja")),
    ("phi-3", include_str!("builtin/phi-3.jinja")),
    ("qwen", include_str!("builtin/qwen.jinja")),
    ("zephyr", include_str!("builtin/zephyr.jinja")),
    ("alpaca", include_str!("builtin/alpaca.jinja")),
];

/// The source of the template `name`.
///
/// # Errors
/// A name that no template has, with those there are.
pub(crate) fn named(name: &str) -> Result<&'static str> {
    let found = TEMPLATES.iter().find(|(known, _)| *known == name);
    found.map(|(_, source)| *source).ok_or_else(|| {
        let names: Vec<_> = TEMPLATES.iter().map(|(name, _)| *name).collect();
        EngineError::input(format!(
            "`chat_template` is {name}, expected one of {}; a template of your own is given as `chat_template_path`",
            names.join(", ")
        ))
    })
}
