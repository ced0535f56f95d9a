//! A tokenizer from a GGUF file's `tokenizer.ggml.*` keys: byte-level BPE (`gpt2`) in the flavours named by
//! `tokenizer.ggml.pre`, or SentencePiece's BPE (`llama`). Reference: llama.cpp's `llama-vocab.cpp`, checked against the
//! original `tokenizer.json`s.

use std::collections::BTreeMap;
use std::path::Path;

use fleetune_shared::GgufValue;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
};

use super::{Extras, Tokenizer, fault};
use crate::model::gguf_header;
use crate::{EngineError, Result};

/// ggml's `LLAMA_TOKEN_TYPE_NORMAL`, `_UNKNOWN`, `_CONTROL` and `_USER_DEFINED`.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn load(path: &Path) -> Result<Tokenizer> {
    let metadata = Metadata { values: gguf_header(path)?.metadata, path };
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let kinds = metadata.numbers("tokenizer.ggml.token_type")?;
    let mut inner = match metadata.text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(&metadata, &tokens)?,
        "llama" => sentence_piece(&metadata, &tokens, &kinds)?,
        other => return Err(metadata.unsupported("tokenizer.ggml.model", other, "gpt2, llama")),
    };
    let of_kind = |kind: u64, special: bool| -> Vec<AddedToken> {
        let kinds = kinds.iter().zip(&tokens).filter(|(found, _)| **found == kind);
        kinds.map(|(_, token)| AddedToken::from(*token, special).normalized(false)).collect()
    };
    inner.add_special_tokens(of_kind(CONTROL, true)).map_err(|e| fault(path, e))?;
    inner.add_tokens(of_kind(USER_DEFINED, false)).map_err(|e| fault(path, e))?;
    Tokenizer::new(inner, path, extras(&metadata, &tokens))
}

fn ids(tokens: &[&str]) -> Vocab {
    tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id as u32)).collect()
}

fn byte_level(metadata: &Metadata<'_>, tokens: &[&str]) -> Result<tokenizers::Tokenizer> {
    let path = metadata.path;
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
    let model = BPE::builder()
        .vocab_and_merges(ids(tokens), merges)
        .ignore_merges(matches!(flavour, Flavour::Llama3))
        .build()
        .map_err(|e| fault(path, e))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(flavour.pre_tokenizer().map_err(|e| fault(path, e))?));
    inner.with_decoder(Some(ByteLevel::default()));
    if let Flavour::Qwen2 = flavour {
        inner.with_normalizer(Some(NFC)).map_err(|e| fault(path, e))?;
    }
    Ok(inner)
}

/// SentencePiece's BPE (arXiv 1808.06226) as BPE with merges: of all neighbours whose union is a piece, the one of the
/// highest score is joined first. Spaces are `▁`, and what no piece covers falls back to bytes.
fn sentence_piece(
    metadata: &Metadata<'_>,
    tokens: &[&str],
    kinds: &[u64],
) -> Result<tokenizers::Tokenizer> {
    let path = metadata.path;
    let wrong = |e| fault(path, e);
    let scores = metadata.scores("tokenizer.ggml.scores")?;
    if scores.len() != tokens.len() {
        let why = format!("has {} numbers, expected {}, one a token", scores.len(), tokens.len());
        return Err(metadata.bad("tokenizer.ggml.scores", &why));
    }
    let pieces = tokens.iter().zip(&scores).zip(kinds);
    let pieces =
        pieces.filter(|(_, kind)| **kind == NORMAL).map(|((token, score), _)| (*token, *score));
    let unknown = kinds.iter().position(|kind| *kind == UNKNOWN);
    let vocab = ids(tokens);
    let merges = merges(pieces, &vocab);
    let mut model =
        BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(tokens[unknown].to_owned());
    }
    let mut inner = tokenizers::Tokenizer::new(model.build().map_err(wrong)?);
    let begins = metadata.values.get("tokenizer.ggml.add_space_prefix");
    let begins = begins != Some(&GgufValue::Bool(false));
    let spaces: NormalizerWrapper = Replace::new(" ", "▁").map_err(wrong)?.into();
    let mut normalizers = vec![spaces];
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new("▁", " ").map_err(wrong)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if begins {
        normalizers.insert(0, Prepend::new("▁".to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_normalizer(Some(Normalizers::new(normalizers))).map_err(wrong)?;
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// Every way to make a piece of two others, the best piece first.
fn merges<'t>(
    pieces: impl Iterator<Item = (&'t str, f64)>,
    vocab: &Vocab,
) -> Vec<(String, String)> {
    let mut merges = Vec::new();
    for (piece, score) in pieces {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(a), Some(b)) = (vocab.get(left), vocab.get(right)) {
                merges.push((score, *a, *b, left, right));
            }
        }
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    merges.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect()
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

    fn scores(&self, key: &str) -> Result<Vec<f64>> {
        let numbers = self.list(key)?.iter().map(GgufValue::as_f64).collect::<Option<Vec<_>>>();
        numbers.ok_or_else(|| self.bad(key, "holds something else than numbers"))
    }

    fn numbers(&self, key: &str) -> Result<Vec<u64>> {
        let numbers = self.list(key)?.iter().map(GgufValue::as_u64).collect::<Option<Vec<_>>>();
        numbers.ok_or_else(|| self.bad(key, "holds something else than whole numbers"))
    }
}
