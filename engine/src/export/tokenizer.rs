//! A BPE tokenizer, byte-level or SentencePiece's, as `tokenizer.ggml.*` keys.

use std::collections::HashMap;
use std::path::Path;

use fleetune_shared::ModelSpec;
use serde_json::Value as Json;

use super::file::Value;
use super::metadata::Metadata;
use crate::data::{GGUF_LLAMA3, GGUF_QWEN2, Tokenizer};
use crate::{EngineError, Result};

/// ggml's kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Keys of the tokenizer that belongs to the model at `path`.
pub(super) fn of_model(path: &Path, spec: &ModelSpec) -> Result<Metadata> {
    let tokenizer = Tokenizer::load(path)?;
    let json = tokenizer.to_json()?;
    let wrong = |why: String| EngineError::input(format!("{}: {why}", tokenizer.path().display()));
    let other = "convert the model with llama.cpp's convert_hf_to_gguf.py";
    let byte_level = steps(&json["decoder"]).iter().any(|step| step["type"] == "ByteLevel");
    let mut keys = match json["model"]["type"].as_str() {
        Some("BPE") if byte_level => {
            let Some(pre) = flavour(&json["pre_tokenizer"]) else {
                let why = "cuts words in a way llama.cpp has no name for here";
                return Err(wrong(format!("{why}; {other}")));
            };
            byte_level_keys(&json, pre, spec.vocab_size)
        }
        Some("BPE") if json["model"]["byte_fallback"] == true => {
            sentence_piece_keys(&json, spec.vocab_size)
        }
        _ => {
            let why =
                "is neither byte-level BPE nor SentencePiece's, which is all that is exported";
            return Err(wrong(format!("{why}; {other}")));
        }
    };
    let id = |name: &str| tokenizer.named(name);
    for (key, id) in [
        ("bos_token_id", tokenizer.bos().map(|token| token.id).or(spec.bos_token_id)),
        ("eos_token_id", tokenizer.eos_id(spec).ok()),
        ("padding_token_id", id("pad_token").or(spec.pad_token_id)),
        ("unknown_token_id", id("unk_token")),
    ] {
        if let Some(id) = id {
            keys.push((format!("tokenizer.ggml.{key}"), Value::U32(id)));
        }
    }
    let begins = tokenizer.bos().is_some_and(|bos| tokenizer.prefix_ids().contains(&bos.id));
    keys.push(("tokenizer.ggml.add_bos_token".into(), Value::Bool(begins)));
    if let Some((template, _)) = tokenizer.chat_template() {
        keys.push(("tokenizer.chat_template".into(), Value::Text(template.to_owned())));
    }
    Ok(keys)
}

fn byte_level_keys(json: &Json, pre: &str, rows: usize) -> Metadata {
    let (tokens, kinds) = vocabulary(json, rows);
    vec![
        ("tokenizer.ggml.model".to_owned(), Value::Text("gpt2".into())),
        ("tokenizer.ggml.pre".to_owned(), Value::Text(pre.into())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(tokens)),
        ("tokenizer.ggml.token_type".to_owned(), Value::I32s(kinds)),
        ("tokenizer.ggml.merges".to_owned(), Value::Texts(merges(&json["model"]["merges"]))),
    ]
}

/// SentencePiece joins those neighbours first whose union scores highest, so a piece scores by the first merge that
/// makes it.
fn sentence_piece_keys(json: &Json, rows: usize) -> Metadata {
    let (tokens, mut kinds) = vocabulary(json, rows);
    let mut rank = HashMap::new();
    let merges = merges(&json["model"]["merges"]);
    for (at, merge) in merges.iter().enumerate() {
        rank.entry(merge.replacen(' ', "", 1)).or_insert(at);
    }
    let last = merges.len();
    let score = |token: &String| -(rank.get(token).copied().unwrap_or(last) as f32);
    let scores = tokens.iter().map(score).collect();
    for (kind, token) in kinds.iter_mut().zip(&tokens) {
        let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        if json["model"]["unk_token"] == token.as_str() {
            *kind = UNKNOWN;
        } else if byte.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok()) {
            *kind = BYTE;
        }
    }
    let begins = steps(&json["normalizer"]).iter().any(|step| step["type"] == "Prepend")
        || steps(&json["pre_tokenizer"])
            .iter()
            .any(|step| step["type"] == "Metaspace" && step["prepend_scheme"] != "never");
    vec![
        ("tokenizer.ggml.model".to_owned(), Value::Text("llama".into())),
        ("tokenizer.ggml.pre".to_owned(), Value::Text("default".into())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(tokens)),
        ("tokenizer.ggml.scores".to_owned(), Value::F32s(scores)),
        ("tokenizer.ggml.token_type".to_owned(), Value::I32s(kinds)),
        ("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(begins)),
    ]
}

/// Tokens by id and their kinds, as many as the model has rows.
fn vocabulary(json: &Json, rows: usize) -> (Vec<String>, Vec<i32>) {
    let id = |value: &Json| value.as_u64().map(|id| id as usize);
    let mut named = Vec::new();
    for (token, value) in json["model"]["vocab"].as_object().into_iter().flatten() {
        named.extend(id(value).map(|id| (id, token.as_str(), NORMAL)));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        named.extend(id(&token["id"]).zip(token["content"].as_str()).map(|(i, t)| (i, t, kind)));
    }
    let count = named.iter().map(|(id, ..)| id + 1).max().unwrap_or(0).max(rows);
    let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![UNUSED; count];
    // Added tokens come last, and say what a token of the vocabulary is.
    for (id, token, kind) in named {
        tokens[id] = token.to_owned();
        kinds[id] = kind;
    }
    (tokens, kinds)
}

/// Pairs, which older files write as one text.
fn merges(json: &Json) -> Vec<String> {
    let pair = |merge: &Json| match merge {
        Json::Array(pair) => pair.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    json.as_array().into_iter().flatten().map(pair).collect()
}

/// The parts of a sequence, or the one step there is.
fn steps(json: &Json) -> Vec<&Json> {
    let parts = ["pretokenizers", "decoders", "normalizers"];
    let parts = parts.into_iter().find_map(|parts| json[parts].as_array());
    parts.map_or_else(|| vec![json], |parts| parts.iter().flat_map(steps).collect())
}

/// llama.cpp's name of how text is cut before BPE.
fn flavour(pre_tokenizer: &Json) -> Option<&'static str> {
    let steps = steps(pre_tokenizer);
    let kinds: Vec<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
    match kinds[..] {
        ["ByteLevel"] if steps[0]["use_regex"] != false => Some("gpt-2"),
        ["Digits", "ByteLevel"] if steps[0]["individual_digits"] == true => Some("smollm"),
        ["Split", "ByteLevel"] => match steps[0]["pattern"]["Regex"].as_str()? {
            GGUF_LLAMA3 => Some("llama-bpe"),
            GGUF_QWEN2 => Some("qwen2"),
            _ => None,
        },
        _ => None,
    }
}
