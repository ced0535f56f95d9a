//! Text to token ids and back, from a model folder's `tokenizer.json` or a GGUF file's metadata.
//!
//! The `tokenizers` crate does the work; this module adds what a trainer needs: the chat template and special
//! tokens that belong to it, where each token stands in its text, and text that stays text (see [`super::guard`]).

mod folder;
mod gguf;
mod save;

pub(crate) use gguf::{LLAMA3 as GGUF_LLAMA3, QWEN2 as GGUF_QWEN2};

use std::ops::Range;
use std::path::{Path, PathBuf};

use fleetune_shared::recipe::{DataFormat, DataSettings};
use fleetune_shared::{BlobHash, ModelSpec};
use tokenizers::{Model as _, OffsetType, PreTokenizer as _};

use super::file;
use super::guard::{Guard, Guarded, Specials};
use super::template;
use crate::{EngineError, Result};

/// A chat template larger than this is no template.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// A token with a role, such as the end of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// Tokens and where each stands in the text, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    pub(crate) ranges: Vec<Range<usize>>,
}

/// A model's tokenizer with its special tokens and chat template.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    specials: Specials,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    /// Ids that end a generation, by the tokenizer and by `generation_config.json`.
    stop_ids: Vec<u32>,
    /// What plain text begins with: BOS for some models, nothing for others.
    prefix_ids: Vec<u32>,
    /// Names such as `bos_token` as the chat template knows them.
    template_names: Vec<(String, String)>,
    /// The template and the file it comes from.
    chat_template: Option<(String, PathBuf)>,
    vocab_size: usize,
    /// Bytes of the longest token.
    token_bytes_max: usize,
}

/// What a source says beside the vocabulary.
#[derive(Debug, Default)]
struct Extras {
    /// `bos_token`, `eos_token`, `pad_token`, `unk_token` and their text.
    names: Vec<(String, String)>,
    stop_ids: Vec<u32>,
    chat_template: Option<(String, PathBuf)>,
    /// Whether plain text begins with BOS, where the source says so outside a post-processor.
    add_bos: bool,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder or a GGUF file.
    ///
    /// # Errors
    /// A missing, damaged or unsupported tokenizer, by file and key.
    pub fn load(model_path: &Path) -> Result<Self> {
        if model_path.is_dir() {
            return folder::load(model_path);
        }
        file::open(model_path)?;
        gguf::load(model_path)
    }

    /// The tokenizer that a recipe's rows need, with the chat template the recipe names. Rows that are tokens already
    /// need none, so a model without one will do for them.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::use_chat_template`].
    pub fn for_rows(model_path: &Path, settings: &DataSettings) -> Result<Option<Self>> {
        let missing = model_path.is_dir() && !model_path.join("tokenizer.json").exists();
        if settings.format == DataFormat::Tokenized || missing {
            return Ok(None);
        }
        Self::with_template(model_path, settings).map(Some)
    }

    /// [`Self::load`], with the chat template the recipe names.
    pub(crate) fn with_template(model_path: &Path, settings: &DataSettings) -> Result<Self> {
        let mut tokenizer = Self::load(model_path)?;
        if let Some(path) = &settings.chat_template_path {
            tokenizer.use_chat_template(Path::new(path))?;
        } else if let Some(name) = &settings.chat_template {
            tokenizer.use_builtin_template(name)?;
        }
        Ok(tokenizer)
    }

    fn new(mut inner: tokenizers::Tokenizer, path: &Path, extras: Extras) -> Result<Self> {
        // Rows are never padded, and a cut is the recipe's to choose.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fault(path, e))?;
        let added = inner.get_added_tokens_decoder();
        let specials = Specials::of(added.into_values().filter(|t| t.special).map(|t| t.content));
        let vocab = inner.get_vocab(true);
        let token_bytes_max = vocab.keys().map(String::len).max().unwrap_or(1);
        let vocab_size = vocab.into_values().max().map_or(0, |id| id as usize + 1);
        let named = |name: &str| {
            let text = &extras.names.iter().find(|(key, _)| key == name)?.1;
            Some(SpecialToken { id: inner.token_to_id(text)?, text: text.clone() })
        };
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        let mut stop_ids = extras.stop_ids;
        stop_ids.extend(eos.as_ref().map(|token| token.id));
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let probe = inner.encode("a", true).map_err(|e| fault(path, e))?;
        let is_special = probe.get_special_tokens_mask().iter();
        let mut prefix_ids: Vec<u32> = is_special
            .zip(probe.get_ids())
            .take_while(|(mask, _)| **mask == 1)
            .map(|(_, id)| *id)
            .collect();
        if extras.add_bos && prefix_ids.is_empty() {
            prefix_ids.extend(bos.as_ref().map(|token| token.id));
        }
        Ok(Self {
            inner,
            path: path.to_owned(),
            specials,
            bos,
            eos,
            stop_ids,
            prefix_ids,
            template_names: extras.names,
            chat_template: extras.chat_template,
            vocab_size,
            token_bytes_max,
        })
    }

    /// Puts a Jinja file in place of the model's own chat template.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn use_chat_template(&mut self, path: &Path) -> Result<()> {
        self.chat_template = Some((file::text(path, TEMPLATE_BYTES_MAX)?, path.to_owned()));
        Ok(())
    }

    /// Puts a template of ours in place of the model's own chat template.
    ///
    /// # Errors
    /// A name that no template has.
    pub fn use_builtin_template(&mut self, name: &str) -> Result<()> {
        let source = template::named(name)?.to_owned();
        self.chat_template = Some((source, Path::new("built-in").join(name)));
        Ok(())
    }

    /// The chat template's source and the file it stands in.
    #[must_use]
    pub fn chat_template(&self) -> Option<(&str, &Path)> {
        self.chat_template.as_ref().map(|(source, path)| (source.as_str(), path.as_path()))
    }

    /// Tells this tokenizer, its special tokens and its template from others.
    pub(crate) fn fingerprint(&self) -> Result<BlobHash> {
        let text = self.inner.to_string(false).map_err(|e| fault(&self.path, e))?;
        let rest = format!(
            "{:?} {:?} {:?} {:?} {:?}",
            self.eos,
            self.stop_ids,
            self.prefix_ids,
            self.template_names,
            self.chat_template.as_ref().map(|(source, _)| source)
        );
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.as_bytes()).update(rest.as_bytes());
        Ok(BlobHash(*hasher.finalize().as_bytes()))
    }

    /// Special tokens as the chat template knows them, such as `bos_token`.
    pub(crate) fn template_names(&self) -> &[(String, String)] {
        &self.template_names
    }

    /// The id of a special token by its role, such as `pad_token`.
    pub(crate) fn named(&self, role: &str) -> Option<u32> {
        let (_, text) = self.template_names.iter().find(|(name, _)| name == role)?;
        self.inner.token_to_id(text)
    }

    /// What `tokenizer.json` holds.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value> {
        let text = self.inner.to_string(false).map_err(|e| fault(&self.path, e))?;
        serde_json::from_str(&text).map_err(|e| fault(&self.path, e))
    }

    pub(crate) fn specials(&self) -> &Specials {
        &self.specials
    }

    /// Where the tokenizer was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The beginning-of-sequence token.
    #[must_use]
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.bos.as_ref()
    }

    /// The end-of-sequence token.
    #[must_use]
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.eos.as_ref()
    }

    /// The id that ends a text: the tokenizer's, or else the model's.
    ///
    /// # Errors
    /// Neither names one: a model trained without it would never stop.
    pub fn eos_id(&self, spec: &ModelSpec) -> Result<u32> {
        let own = self.eos.as_ref().map(|token| token.id);
        own.or_else(|| spec.eos_token_ids.first().copied()).ok_or_else(|| {
            EngineError::input(format!(
                "{}: no end-of-sequence token, so a model trained on it would never stop; \
                 set `eos_token` in tokenizer_config.json or `eos_token_id` in config.json",
                self.path.display()
            ))
        })
    }

    /// Every id that ends a generation.
    #[must_use]
    pub fn stop_ids(&self, spec: &ModelSpec) -> Vec<u32> {
        let mut ids = self.stop_ids.clone();
        ids.extend(&spec.eos_token_ids);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The largest id and one.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Bytes of the longest token.
    pub(crate) fn token_bytes_max(&self) -> usize {
        self.token_bytes_max
    }

    /// Makes sure that every token has a row in the model's embedding.
    ///
    /// # Errors
    /// More tokens than rows, with both numbers.
    pub fn check_fits(&self, spec: &ModelSpec) -> Result<()> {
        if self.vocab_size > spec.vocab_size {
            return Err(EngineError::input(format!(
                "{}: the tokenizer has {} tokens but the model's embedding has {} rows (`vocab_size`); \
                 use the tokenizer the model was trained with",
                self.path.display(),
                self.vocab_size,
                spec.vocab_size
            )));
        }
        Ok(())
    }

    /// Token ids of a text, in which special tokens are ordinary text, without BOS or EOS.
    ///
    /// # Errors
    /// A text the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_guarded(&Guard::text(&self.specials, text))?.ids)
    }

    /// What plain text begins with: BOS for some models, nothing for others.
    #[must_use]
    pub fn prefix_ids(&self) -> &[u32] {
        &self.prefix_ids
    }

    /// Special tokens are looked for while the stand-ins are in place, then the characters come back and the text
    /// between is split as always: the steps of `tokenizers`' own `encode`, and one between.
    pub(crate) fn encode_guarded(&self, guarded: &Guarded) -> Result<Encoded> {
        let encode = || -> tokenizers::Result<tokenizers::Encoding> {
            let inner = &self.inner;
            let mut split = inner
                .get_added_vocabulary()
                .extract_and_normalize(inner.get_normalizer(), &guarded.text);
            for (stand_in, real) in &guarded.pairs {
                let real = real.to_string();
                split.normalize(|text| text.replace(*stand_in, &real))?;
            }
            if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut split)?;
            }
            inner.get_model().tokenize_in_pretokenized(&mut split, None)?;
            split.into_encoding(None, 0, OffsetType::Byte)
        };
        let encoding = encode().map_err(|e| fault(&self.path, e))?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            ranges: encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect(),
        })
    }

    /// Text of ids, special tokens included.
    ///
    /// # Errors
    /// A decoder that cannot make text of them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|e| fault(&self.path, e))
    }

    /// Text of ids without special tokens.
    ///
    /// # Errors
    /// A decoder that cannot make text of them.
    pub fn decode_plain(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| fault(&self.path, e))
    }

    /// Whether `id` is a special token.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }
}

fn fault(path: &Path, error: impl std::fmt::Display) -> EngineError {
    EngineError::input(format!("{}: tokenizer: {error}", path.display()))
}
