//! A tokenizer as Hugging Face stores it: `tokenizer.json` with `tokenizer_config.json`, `special_tokens_map.json`,
//! `generation_config.json` and `chat_template.jinja` beside it, of which only the first must exist.

use std::path::Path;

use serde_json::Value;

use super::{Extras, TEMPLATE_BYTES_MAX, Tokenizer, fault, file};
use crate::{EngineError, Result};

const TOKENIZER_BYTES_MAX: u64 = 512 << 20;
const CONFIG_BYTES_MAX: u64 = 16 << 20;
const NAMES: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

pub(super) fn load(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        return Err(EngineError::input(format!(
            "{}: no tokenizer.json; convert the model's tokenizer to the fast format, or give a folder that has one",
            folder.display()
        )));
    }
    let text = file::text(&path, TOKENIZER_BYTES_MAX)?;
    let inner = tokenizers::Tokenizer::from_bytes(text).map_err(|e| fault(&path, e))?;
    Tokenizer::new(inner, &path, extras(folder)?)
}

fn extras(folder: &Path) -> Result<Extras> {
    let config_path = folder.join("tokenizer_config.json");
    let config = json(&config_path)?;
    let map = json(&folder.join("special_tokens_map.json"))?;
    let generation = json(&folder.join("generation_config.json"))?;
    let mut extras = Extras::default();
    for name in NAMES {
        if let Some(text) = token_text(&config[name]).or_else(|| token_text(&map[name])) {
            extras.names.push((name.to_owned(), text.to_owned()));
        }
    }
    let ids = &generation["eos_token_id"];
    let ids = ids.as_array().map_or(std::slice::from_ref(ids), Vec::as_slice);
    let ids = ids.iter().filter_map(Value::as_u64);
    extras.stop_ids.extend(ids.filter_map(|id| u32::try_from(id).ok()));
    let template_path = folder.join("chat_template.jinja");
    extras.chat_template = match file::text_if_any(&template_path, TEMPLATE_BYTES_MAX)? {
        Some(text) => Some((text, template_path)),
        None => template(&config["chat_template"]).map(|text| (text.to_owned(), config_path)),
    };
    Ok(extras)
}

fn json(path: &Path) -> Result<Value> {
    match file::text_if_any(path, CONFIG_BYTES_MAX)? {
        None => Ok(Value::Null),
        Some(text) => serde_json::from_str(&text)
            .map_err(|e| EngineError::input(format!("{}: {e}", path.display()))),
    }
}

/// A token's text, plain or as an `AddedToken` object.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A template, plain or the one called `default` in a list of named ones.
fn template(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| {
        let named = value.as_array()?;
        let default = named.iter().find(|item| item["name"] == "default").or(named.first())?;
        default["template"].as_str()
    })
}
