//! A model's shape, read from a Hugging Face `config.json` or a GGUF header.
//!
//! Everything that sizes memory or builds a decoder block comes from here: the estimator in this room and
//! the model in `engine`. Reading files is the caller's business; this module only reads values.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::gguf::{GgufHeader, GgufValue};

/// The shape of a decoder-only transformer.
///
/// Field names follow Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// `llama` for the whole Llama family, SmolLM2 included.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of decoder blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; `hidden_size / num_attention_heads` unless the file says otherwise.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched, if at all.
    pub rope_scaling: Option<RopeScaling>,
    /// Activation of the gate.
    pub hidden_act: Activation,
    /// Whether the head is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o carry a bias.
    pub attention_bias: bool,
    /// Whether gate, up and down carry a bias.
    pub mlp_bias: bool,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Padding token. transformers' `nn.Embedding(padding_idx)` never trains its row as an input, even where it is
    /// also the end of a turn, and so must whoever wants its numbers.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

/// Activation of the MLP's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · sigmoid(x)`, the gate of SwiGLU.
    Silu,
}

/// Stretching of rotary frequencies for contexts longer than the model was first trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// How many times longer.
        factor: f64,
    },
    /// Llama 3.1's scheme: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    /// Reference: `_compute_llama3_parameters` in transformers' `modeling_rope_utils`.
    Llama3 {
        /// How many times longer.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context of the first training.
        original_max_position_embeddings: usize,
    },
}

/// Why a model's shape could not be read.
#[derive(Debug, Error, PartialEq)]
pub enum ModelSpecError {
    /// The text is no JSON object.
    #[error("config.json is not a JSON object: {0}")]
    Json(String),
    /// A key is missing or holds something else.
    #[error("{place}: key `{key}` {found}, expected {expected}")]
    Key {
        /// File or header.
        place: &'static str,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// An architecture this engine does not train.
    #[error("{place}: model type `{found}` is not supported, expected one of: {supported}")]
    Architecture {
        /// File or header.
        place: &'static str,
        /// The type found.
        found: String,
        /// What is supported.
        supported: &'static str,
    },
    /// Numbers that contradict one another.
    #[error("{place}: {why}")]
    Shape {
        /// File or header.
        place: &'static str,
        /// The contradiction, with its numbers.
        why: String,
    },
}

const CONFIG: &str = "config.json";
const GGUF: &str = "GGUF header";
const SUPPORTED: &str = "llama";

/// One object of `config.json` with typed access.
struct Keys<'a> {
    object: &'a serde_json::Map<String, Value>,
    path: &'static str,
}

impl Keys<'_> {
    fn optional<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ModelSpecError> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| ModelSpecError::Key {
                place: CONFIG,
                key: format!("{}{key}", self.path),
                found: format!("is {value}"),
                expected,
            }),
        }
    }

    fn required<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, ModelSpecError> {
        self.optional(key, expected, read)?.ok_or_else(|| ModelSpecError::Key {
            place: CONFIG,
            key: format!("{}{key}", self.path),
            found: "is missing".into(),
            expected,
        })
    }

    fn count(&self, key: &str) -> Result<usize, ModelSpecError> {
        self.required(key, "a positive whole number", positive)
    }

    fn flag(&self, key: &str) -> Result<bool, ModelSpecError> {
        Ok(self.optional(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn number(&self, key: &str) -> Result<f64, ModelSpecError> {
        self.required(key, "a positive number", positive_number)
    }
}

fn positive(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

fn positive_number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| n.is_finite() && *n > 0.0)
}

impl ModelSpec {
    /// Reads a Hugging Face `config.json`; both the nested `rope_parameters` of transformers 5 and the flat
    /// `rope_theta` / `rope_scaling` of transformers 4 are understood.
    ///
    /// # Errors
    /// A missing or mistyped key, an unsupported architecture or a contradiction, each by name.
    pub fn from_hf_config(text: &str) -> Result<Self, ModelSpecError> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| ModelSpecError::Json(e.to_string()))?;
        let object = value
            .as_object()
            .ok_or_else(|| ModelSpecError::Json("it is another JSON value".into()))?;
        let keys = Keys { object, path: "" };

        let model_type =
            keys.required("model_type", "a string", |v| v.as_str().map(str::to_owned))?;
        if model_type != SUPPORTED {
            return Err(ModelSpecError::Architecture {
                place: CONFIG,
                found: model_type,
                supported: SUPPORTED,
            });
        }
        let act = keys
            .optional("hidden_act", "a string", |v| v.as_str().map(str::to_owned))?
            .unwrap_or_else(|| "silu".into());
        if act != "silu" {
            return Err(ModelSpecError::Key {
                place: CONFIG,
                key: "hidden_act".into(),
                found: format!("is \"{act}\""),
                expected: "\"silu\"",
            });
        }
        let hidden_size = keys.count("hidden_size")?;
        let num_attention_heads = keys.count("num_attention_heads")?;
        let (rope_theta, rope_scaling) = rope_of(&keys)?;
        let spec = Self {
            model_type,
            hidden_size,
            intermediate_size: keys.count("intermediate_size")?,
            num_hidden_layers: keys.count("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: keys
                .optional("num_key_value_heads", "a positive whole number", positive)?
                .unwrap_or(num_attention_heads),
            head_dim: keys
                .optional("head_dim", "a positive whole number", positive)?
                .unwrap_or(hidden_size / num_attention_heads),
            vocab_size: keys.count("vocab_size")?,
            max_position_embeddings: keys.count("max_position_embeddings")?,
            rms_norm_eps: keys.number("rms_norm_eps")?,
            rope_theta,
            rope_scaling,
            hidden_act: Activation::Silu,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            bos_token_id: keys.optional("bos_token_id", "a token id", token)?,
            eos_token_ids: keys
                .optional("eos_token_id", "a token id or a list of them", tokens)?
                .unwrap_or_default(),
            pad_token_id: keys.optional("pad_token_id", "a token id", token)?,
        };
        spec.consistent(CONFIG)
    }

    /// Reads the metadata of a GGUF file.
    ///
    /// GGUF keeps `rms_norm_eps` as f32; it is rounded back to the nearest decimal (9.9999997e-06 → 1e-5),
    /// as the value the model was trained with.
    ///
    /// # Errors
    /// As [`Self::from_hf_config`].
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, ModelSpecError> {
        let text = |key: &str| match header.metadata.get(key) {
            Some(GgufValue::String(s)) => Some(s.clone()),
            _ => None,
        };
        let arch = text("general.architecture").unwrap_or_default();
        if arch != SUPPORTED {
            return Err(ModelSpecError::Architecture {
                place: GGUF,
                found: arch,
                supported: SUPPORTED,
            });
        }
        let missing = |key: &str, expected| ModelSpecError::Key {
            place: GGUF,
            key: format!("{arch}.{key}"),
            found: "is missing".into(),
            expected,
        };
        let get = |key: &str| header.metadata.get(&format!("{arch}.{key}"));
        let maybe_count =
            |key: &str| get(key).and_then(GgufValue::as_u64).map(|n| n as usize).filter(|n| *n > 0);
        let count =
            |key: &str| maybe_count(key).ok_or_else(|| missing(key, "a positive whole number"));
        let number = |key: &str| {
            get(key)
                .and_then(GgufValue::as_f64)
                .filter(|n| *n > 0.0)
                .ok_or_else(|| missing(key, "a positive number"))
        };

        let hidden_size = count("embedding_length")?;
        let num_attention_heads = count("attention.head_count")?;
        let vocab_rows = header
            .tensors
            .iter()
            .find(|t| t.name == "token_embd.weight")
            .and_then(|t| t.shape.first().copied())
            .ok_or_else(|| ModelSpecError::Shape {
                place: GGUF,
                why: "tensor `token_embd.weight` is missing".into(),
            })?;
        let token = |key: &str| {
            header
                .metadata
                .get(&format!("tokenizer.ggml.{key}"))
                .and_then(GgufValue::as_u64)
                .and_then(|n| u32::try_from(n).ok())
        };
        let rope_scaling = match text(&format!("{arch}.rope.scaling.type")).as_deref() {
            Some("linear") => Some(RopeScaling::Linear { factor: number("rope.scaling.factor")? }),
            None | Some("none") => None,
            Some(other) => {
                return Err(ModelSpecError::Shape {
                    place: GGUF,
                    why: format!("rope scaling `{other}` is not supported, expected `linear`"),
                });
            }
        };
        let spec = Self {
            model_type: arch.clone(),
            hidden_size,
            intermediate_size: count("feed_forward_length")?,
            num_hidden_layers: count("block_count")?,
            num_attention_heads,
            num_key_value_heads: maybe_count("attention.head_count_kv")
                .unwrap_or(num_attention_heads),
            head_dim: maybe_count("attention.key_length")
                .unwrap_or(hidden_size / num_attention_heads),
            vocab_size: vocab_rows,
            max_position_embeddings: count("context_length")?,
            rms_norm_eps: nearest_decimal(number("attention.layer_norm_rms_epsilon")?),
            rope_theta: get("rope.freq_base").and_then(GgufValue::as_f64).unwrap_or(10_000.0),
            rope_scaling,
            hidden_act: Activation::Silu,
            tie_word_embeddings: !header.tensors.iter().any(|t| t.name == "output.weight"),
            attention_bias: header.tensors.iter().any(|t| t.name == "blk.0.attn_q.bias"),
            mlp_bias: header.tensors.iter().any(|t| t.name == "blk.0.ffn_gate.bias"),
            bos_token_id: token("bos_token_id"),
            eos_token_ids: token("eos_token_id").into_iter().collect(),
            pad_token_id: token("padding_token_id"),
        };
        spec.consistent(GGUF)
    }

    /// Parameters of the whole model; a tied head is counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let head = if self.tie_word_embeddings { 0 } else { self.vocab_size * self.hidden_size };
        let block: usize = self.linears().iter().map(|(_, out, inp)| out * inp).sum::<usize>()
            + self.biases_per_block()
            + 2 * self.hidden_size;
        (self.vocab_size * self.hidden_size
            + head
            + self.num_hidden_layers * block
            + self.hidden_size) as u64
    }

    /// The linear layers of one block as `(name, out_features, in_features)`, in the order data meets them.
    #[must_use]
    pub fn linears(&self) -> [(&'static str, usize, usize); 7] {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        [
            ("q_proj", q, h),
            ("k_proj", kv, h),
            ("v_proj", kv, h),
            ("o_proj", h, q),
            ("gate_proj", f, h),
            ("up_proj", f, h),
            ("down_proj", h, f),
        ]
    }

    fn biases_per_block(&self) -> usize {
        let of = |names: &[&str]| -> usize {
            self.linears().iter().filter(|(n, ..)| names.contains(n)).map(|(_, out, _)| out).sum()
        };
        let attention =
            if self.attention_bias { of(&["q_proj", "k_proj", "v_proj", "o_proj"]) } else { 0 };
        let mlp = if self.mlp_bias { of(&["gate_proj", "up_proj", "down_proj"]) } else { 0 };
        attention + mlp
    }

    fn consistent(self, place: &'static str) -> Result<Self, ModelSpecError> {
        let fail = |why: String| Err(ModelSpecError::Shape { place, why });
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return fail(format!(
                "num_key_value_heads {} does not divide num_attention_heads {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return fail(format!(
                "head_dim is {}, expected an even number (hidden_size {} over {} heads)",
                self.head_dim, self.hidden_size, self.num_attention_heads
            ));
        }
        let largest = [
            self.hidden_size,
            self.intermediate_size,
            self.vocab_size,
            self.num_attention_heads * self.head_dim,
        ];
        if largest.iter().any(|n| *n > 1 << 24) || self.num_hidden_layers > 4096 {
            return fail("sizes are beyond any known model, the file is likely damaged".into());
        }
        Ok(self)
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn tokens(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Array(items) => items.iter().map(token).collect(),
        other => token(other).map(|t| vec![t]),
    }
}

fn nearest_decimal(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

fn rope_of(keys: &Keys<'_>) -> Result<(f64, Option<RopeScaling>), ModelSpecError> {
    let flat_theta = keys.optional("rope_theta", "a positive number", positive_number)?;
    let as_object = |v: &Value| v.as_object().cloned();
    let (object, path) = match keys.optional("rope_parameters", "an object", as_object)? {
        Some(object) => (Some(object), "rope_parameters."),
        None => (keys.optional("rope_scaling", "an object or null", as_object)?, "rope_scaling."),
    };
    let Some(object) = object else { return Ok((flat_theta.unwrap_or(10_000.0), None)) };
    let rope = Keys { object: &object, path };
    let theta = rope
        .optional("rope_theta", "a positive number", positive_number)?
        .or(flat_theta)
        .unwrap_or(10_000.0);
    let as_string = |v: &Value| v.as_str().map(str::to_owned);
    let kind = match rope.optional("rope_type", "a string", as_string)? {
        Some(kind) => kind,
        None => rope.optional("type", "a string", as_string)?.unwrap_or_else(|| "default".into()),
    };
    let scaling = match kind.as_str() {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: rope.number("factor")? }),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: rope.number("factor")?,
            low_freq_factor: rope.number("low_freq_factor")?,
            high_freq_factor: rope.number("high_freq_factor")?,
            original_max_position_embeddings: rope.count("original_max_position_embeddings")?,
        }),
        _ => {
            return Err(ModelSpecError::Key {
                place: CONFIG,
                key: format!("{path}rope_type"),
                found: format!("is \"{kind}\""),
                expected: "default, linear or llama3",
            });
        }
    };
    Ok((theta, scaling))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"model_type":"llama","hidden_act":"silu","hidden_size":64,"intermediate_size":160,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":512,
        "max_position_embeddings":512,"rms_norm_eps":1e-5,"eos_token_id":[2,3],
        "pad_token_id":0}"#;

    fn tiny_with(key: &str, value: &str) -> Result<ModelSpec, ModelSpecError> {
        let mut config: Value = serde_json::from_str(TINY).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        ModelSpec::from_hf_config(&config.to_string())
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let spec = ModelSpec::from_hf_config(TINY).unwrap();
        assert_eq!((spec.head_dim, spec.rope_theta, spec.rope_scaling), (16, 10_000.0, None));
        assert_eq!((spec.eos_token_ids, spec.pad_token_id), (vec![2, 3], Some(0)));
        assert!(!spec.tie_word_embeddings);
    }

    #[test]
    fn rope_is_read_in_both_spellings() {
        let nested = r#"{"rope_type":"llama3","rope_theta":5e5,"factor":8,"low_freq_factor":1,
            "high_freq_factor":4,"original_max_position_embeddings":64}"#;
        let spec = tiny_with("rope_parameters", nested).unwrap();
        assert_eq!(spec.rope_theta, 5e5);
        assert!(matches!(spec.rope_scaling, Some(RopeScaling::Llama3 { factor: 8.0, .. })));
        let flat = tiny_with("rope_scaling", r#"{"type":"linear","factor":2.0}"#).unwrap();
        assert_eq!(flat.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    }

    #[test]
    fn bad_values_are_named() {
        let message = |key, value| tiny_with(key, value).unwrap_err().to_string();
        assert_eq!(
            message("hidden_size", "\"64\""),
            "config.json: key `hidden_size` is \"64\", expected a positive whole number"
        );
        assert!(message("num_key_value_heads", "3").contains("does not divide"));
        assert!(message("head_dim", "0").contains("`head_dim` is 0"));
        assert!(message("model_type", "\"mamba\"").contains("`mamba` is not supported"));
    }

    #[test]
    fn gguf_epsilon_is_rounded_back() {
        assert_eq!(nearest_decimal(f64::from(9.999_999_7e-6_f64 as f32)), 1e-5);
    }
}
