//! The metadata of a GGUF file. Reference: llama.cpp's `llama-model.cpp` and `convert_hf_to_gguf.py`.

use super::family::{Family, Windows};
use super::{LayerType, ModelSpec, ModelSpecError, RopeScaling, StoredWeights};
use crate::gguf::{GgufHeader, GgufValue};

const GGUF: &str = "GGUF header";

/// Metadata under the architecture's prefix.
struct Metadata<'a> {
    header: &'a GgufHeader,
    architecture: &'a str,
}

impl Metadata<'_> {
    fn get(&self, key: &str) -> Option<&GgufValue> {
        self.header.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn maybe_count(&self, key: &str) -> Option<usize> {
        self.get(key).and_then(GgufValue::as_u64).map(|n| n as usize).filter(|n| *n > 0)
    }

    fn count(&self, key: &str) -> Result<usize, ModelSpecError> {
        self.maybe_count(key).ok_or_else(|| self.missing(key, "a positive whole number"))
    }

    fn maybe_number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(GgufValue::as_f64).filter(|n| n.is_finite() && *n > 0.0)
    }

    fn number(&self, key: &str) -> Result<f64, ModelSpecError> {
        self.maybe_number(key).ok_or_else(|| self.missing(key, "a positive number"))
    }

    fn missing(&self, key: &str, expected: &'static str) -> ModelSpecError {
        let found = match self.get(key) {
            None => "is missing".to_owned(),
            Some(value) => format!("is {value:?}"),
        };
        ModelSpecError::Key {
            place: GGUF,
            key: format!("{}.{key}", self.architecture),
            found,
            expected,
        }
    }

    fn token(&self, key: &str) -> Option<u32> {
        let value = self.header.metadata.get(&format!("tokenizer.ggml.{key}"));
        value.and_then(GgufValue::as_u64).and_then(|n| u32::try_from(n).ok())
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.header.tensors.iter().any(|tensor| tensor.name == name)
    }

    fn rope_scaling(&self) -> Result<Option<RopeScaling>, ModelSpecError> {
        match self.get("rope.scaling.type").and_then(GgufValue::as_str) {
            None | Some("none" | "longrope") => Ok(None),
            Some("linear") => {
                Ok(Some(RopeScaling::Linear { factor: self.number("rope.scaling.factor")? }))
            }
            Some(other) => Err(ModelSpecError::Shape {
                place: GGUF,
                why: format!(
                    "rope scaling `{}` is not supported, expected none, linear or longrope",
                    other.escape_debug()
                ),
            }),
        }
    }
}

impl ModelSpec {
    /// What a GGUF file calls this architecture; llama.cpp runs a Mistral as `llama`.
    #[must_use]
    pub fn gguf_architecture(&self) -> &'static str {
        let name = Family::of_hf(&self.model_type).map_or("", |family| family.gguf);
        if name.is_empty() { "llama" } else { name }
    }

    /// Reads the metadata of a GGUF file.
    ///
    /// GGUF keeps `rms_norm_eps` as f32; it is rounded back to the nearest decimal (9.9999997e-06 → 1e-5),
    /// as the value the model was trained with. Rotary factors that the file stores as tensors are the reader's to add.
    ///
    /// # Errors
    /// As [`Self::from_hf_config`].
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, ModelSpecError> {
        let architecture = header.metadata.get("general.architecture");
        let architecture = architecture.and_then(GgufValue::as_str).unwrap_or_default();
        let family = Family::of_gguf(architecture).ok_or_else(|| ModelSpecError::Architecture {
            place: GGUF,
            found: architecture.escape_debug().to_string(),
            supported: Family::supported(true),
        })?;
        let from = Metadata { header, architecture };
        let hidden_size = from.count("embedding_length")?;
        let num_attention_heads = from.count("attention.head_count")?;
        let num_hidden_layers = from.count("block_count")?;
        let embedding = header.tensors.iter().find(|t| t.name == "token_embd.weight");
        let vocab_size = embedding.and_then(|t| t.shape.first().copied()).ok_or_else(|| {
            ModelSpecError::Shape {
                place: GGUF,
                why: "tensor `token_embd.weight` is missing".into(),
            }
        })?;
        let head_dim = match from.maybe_count("attention.key_length") {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                return Err(from.missing("attention.key_length", "the width of a head"));
            }
        };
        let (sliding_window, layer_types) = from.windows(&family, num_hidden_layers);
        let spec = Self {
            model_type: family.model_type.into(),
            hidden_size,
            intermediate_size: from.count("feed_forward_length")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: from
                .maybe_count("attention.head_count_kv")
                .unwrap_or(num_attention_heads),
            head_dim,
            vocab_size,
            max_position_embeddings: from.count("context_length")?,
            rms_norm_eps: nearest_decimal(from.number("attention.layer_norm_rms_epsilon")?),
            rope_theta: from.maybe_number("rope.freq_base").unwrap_or(family.rope_theta),
            rope_scaling: from.rope_scaling()?,
            // llama.cpp does not store it either.
            rope_local_base_freq: family.rope_local_base_freq,
            partial_rotary_factor: match from.maybe_count("rope.dimension_count") {
                Some(turned) if family.partial_rotary => turned as f64 / head_dim as f64,
                _ => 1.0,
            },
            hidden_act: family.hidden_act,
            tie_word_embeddings: !from.has_tensor("output.weight"),
            attention_bias: from.has_tensor("blk.0.attn_q.bias"),
            attention_output_bias: from.has_tensor("blk.0.attn_output.bias"),
            mlp_bias: from.has_tensor("blk.0.ffn_gate.bias"),
            fused_projections: family.fused_projections,
            qk_norm: family.qk_norm,
            norm_placement: family.norm_placement,
            norm_unit_offset: family.gemma,
            scaled_embedding: family.gemma,
            query_pre_attn_scalar: family
                .query_pre_attn_scalar
                .map(|_| query_scalar(&family, num_hidden_layers, hidden_size, num_attention_heads))
                .map(|scalar| scalar.unwrap_or(head_dim as f64)),
            attn_logit_softcapping: family
                .attn_logit_softcapping
                .map(|cap| from.maybe_number("attn_logit_softcapping").unwrap_or(cap)),
            final_logit_softcapping: family
                .final_logit_softcapping
                .map(|cap| from.maybe_number("final_logit_softcapping").unwrap_or(cap)),
            sliding_window,
            layer_types,
            bos_token_id: from.token("bos_token_id"),
            eos_token_ids: from.token("eos_token_id").into_iter().collect(),
            pad_token_id: from.token("padding_token_id"),
            stored: StoredWeights::of_gguf(header),
        };
        spec.consistent(GGUF)
    }
}

/// Gemma's largest models divide by their model's width over heads; the file does not say so, and llama.cpp knows them
/// by their number of blocks.
fn query_scalar(family: &Family, layers: usize, hidden: usize, heads: usize) -> Option<f64> {
    let largest = matches!((family.gguf, layers), ("gemma2", 46) | ("gemma3", 62));
    largest.then(|| hidden as f64 / heads as f64)
}

impl Metadata<'_> {
    fn windows(&self, family: &Family, layers: usize) -> (Option<usize>, Vec<LayerType>) {
        let Some(window) = self.maybe_count("attention.sliding_window") else {
            return (None, Vec::new());
        };
        let every = match family.windows {
            Windows::Never | Windows::Upper => return (None, Vec::new()),
            Windows::Always => usize::MAX,
            Windows::Pattern(every) => every,
        };
        let kind = |n: usize| {
            if n.is_multiple_of(every) {
                LayerType::FullAttention
            } else {
                LayerType::SlidingAttention
            }
        };
        (Some(window), (1..=layers.min(1 << 16)).map(kind).collect())
    }
}

fn nearest_decimal(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gguf_epsilon_is_rounded_back() {
        assert_eq!(nearest_decimal(f64::from(9.999_999_7e-6_f64 as f32)), 1e-5);
    }
}
