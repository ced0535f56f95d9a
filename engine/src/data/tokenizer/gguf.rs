//! A tokenizer from a GGUF file's `tokenizer.ggml.*` keys: byte-level BPE (`gpt2`) in the flavours named by
//! `tokenizer.ggml.pre`. Reference: llama.cpp's `llama-vocab.cpp`, checked against the original `tokenizer.json`s.

use std::collections::BTreeMap;
use std::path::Path;

use fleetune_shared::GgufValue;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{Extras, Tokenizer, fault};
use crate::model::gguf_header;
use crate::{EngineError, Result};

/// ggml's `LLAMA_TOKEN_TYPE_CONTROL` and `_USER_DEFINED`.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn load(path: &Path) -> Result<Tokenizer> {
    let metadata = Metadata { values: gguf_header(path)?.metadata, path };
    let model = metadata.text("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(metadata.unsupported("tokenizer.ggml.model", model, "gpt2"));
    }
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let merges = metadata.texts("tokenizer.ggml.merges")?;
    let merges = merges
        .into_iter()
        .map(|merge| {
            let pair = merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            pair.ok_or_else(|| {
                metadata.bad("tokenizer.ggml.merges", &format!("`{merge}` is no pair"))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let pre = metadata.values.get("tokenizer.ggml.pre").and_then(GgufValue::as_str);
    let flavour = Flavour::of(pre.unwrap_or("default")).ok_or_else(|| {
        metadata.unsupported("tokenizer.ggml.pre", pre.unwrap_or_default(), Flavour::KNOWN)
    })?;
    let vocab = tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id as u32));
    let model = BPE::builder()
        .vocab_and_merges(vocab.collect::<Vocab>(), merges)
        .ignore_merges(matches!(flavour, Flavour::Llama3))
        .build()
        .map_err(|e| fault(path, e))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(flavour.pre_tokenizer().map_err(|e| fault(path, e))?));
    inner.with_decoder(Some(ByteLevel::default()));
    if let Flavour::Qwen2 = flavour {
        inner.with_normalizer(Some(NFC)).map_err(|e| fault(path, e))?;
    }
    let kinds = metadata.numbers("tokenizer.ggml.token_type")?;
    let of_kind = |kind: u64, special: bool| -> Vec<AddedToken> {
        let kinds = kinds.iter().zip(&tokens).filter(|(found, _)| **found == kind);
        kinds.map(|(_, token)| AddedToken::from(*token, special).normalized(false)).collect()
    };
    inner.add_special_tokens(of_kind(CONTROL, true)).map_err(|e| fault(path, e))?;
    inner.add_tokens(of_kind(USER_DEFINED, false)).map_err(|e| fault(path, e))?;
    Tokenizer::new(inner, path, extras(&metadata, &tokens))
}

fn extras(metadata: &Metadata<'_>, tokens: &[&str]) -> Extras {
    let id = |key: &str| metadata.values.get(key).and_then(GgufValue::as_u64);
    let mut extras = Extras::default();
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ] {
        if let Some(text) = id(key).and_then(|id| tokens.get(id as usize)) {
            extras.names.push((name.to_owned(), (*text).to_owned()));
        }
    }
    let ends = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    extras.stop_ids =
        ends.into_iter().filter_map(id).filter_map(|id| u32::try_from(id).ok()).collect();
    extras.add_bos =
        metadata.values.get("tokenizer.ggml.add_bos_token") == Some(&GgufValue::Bool(true));
    extras.chat_template = metadata
        .values
        .get("tokenizer.chat_template")
        .and_then(GgufValue::as_str)
        .map(|text| (text.to_owned(), metadata.path.to_owned()));
    extras
}

/// How text is cut into words before BPE.
#[derive(Clone, Copy, Debug)]
enum Flavour {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
}

impl Flavour {
    const KNOWN: &'static str = "gpt-2, smollm, llama-bpe, qwen2";

    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" => Self::Gpt2,
            "smollm" => Self::SmolLm,
            "llama-bpe" | "llama3" | "llama-v3" => Self::Llama3,
            "qwen2" => Self::Qwen2,
            _ => return None,
        })
    }

    fn pre_tokenizer(self) -> tokenizers::Result<PreTokenizerWrapper> {
        let split = |regex: &str| {
            let pattern = SplitPattern::Regex(regex.to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        };
        let words = ByteLevel::new(false, true, true);
        let bytes = ByteLevel::new(false, true, false);
        Ok(match self {
            Self::Gpt2 => words.into(),
            Self::SmolLm => Sequence::new(vec![Digits::new(true).into(), words.into()]).into(),
            Self::Llama3 => Sequence::new(vec![split(LLAMA3)?.into(), bytes.into()]).into(),
            Self::Qwen2 => Sequence::new(vec![split(QWEN2)?.into(), bytes.into()]).into(),
        })
    }
}

struct Metadata<'a> {
    values: BTreeMap<String, GgufValue>,
    path: &'a Path,
}

impl Metadata<'_> {
    fn bad(&self, key: &str, why: &str) -> EngineError {
        EngineError::input(format!("{}: key `{key}` {why}", self.path.display()))
    }

    fn unsupported(&self, key: &str, found: &str, known: &str) -> EngineError {
        let why = format!(
            "is `{found}`, expected one of: {known}; use the model's safetensors folder with its tokenizer.json"
        );
        self.bad(key, &why)
    }

    fn text(&self, key: &str) -> Result<&str> {
        let value = self.values.get(key).and_then(GgufValue::as_str);
        value.ok_or_else(|| self.bad(key, "is missing, expected a text"))
    }

    fn list(&self, key: &str) -> Result<&[GgufValue]> {
        match self.values.get(key) {
            Some(GgufValue::Array(items)) => Ok(items),
            _ => Err(self.bad(key, "is missing, expected a list")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let texts = self.list(key)?.iter().map(GgufValue::as_str).collect::<Option<Vec<_>>>();
        texts.ok_or_else(|| self.bad(key, "holds something else than texts"))
    }

    fn numbers(&self, key: &str) -> Result<Vec<u64>> {
        let numbers = self.list(key)?.iter().map(GgufValue::as_u64).collect::<Option<Vec<_>>>();
        numbers.ok_or_else(|| self.bad(key, "holds something else than whole numbers"))
    }
}
