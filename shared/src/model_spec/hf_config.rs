//! `config.json`, read and written.

use serde_json::{Value, json};

use super::family::{Biases, Family, Windows};
use super::hf_rope::rope_of;
use super::keys::{CONFIG, COUNT, Keys, NUMBER, object, positive, positive_number, token, tokens};
use super::{
    Activation, LayerType, ModelSpec, ModelSpecError, NormPlacement, RopeScaling, StoredWeights,
};

impl ModelSpec {
    /// Reads a Hugging Face `config.json`; both the nested `rope_parameters` of transformers 5 and the flat
    /// `rope_theta` / `rope_scaling` of transformers 4 are understood, and what a file leaves out is what its
    /// architecture's class in transformers would take.
    ///
    /// # Errors
    /// A missing or mistyped key, an unsupported architecture or a contradiction, each by name.
    pub fn from_hf_config(text: &str) -> Result<Self, ModelSpecError> {
        let object = object(text)?;
        let keys = Keys { object: &object, path: "" };

        let model_type =
            keys.required("model_type", "a string", |v| v.as_str().map(str::to_owned))?;
        let family = Family::of_hf(&model_type).ok_or_else(|| ModelSpecError::Architecture {
            place: CONFIG,
            found: model_type.escape_debug().to_string(),
            supported: Family::supported(false),
        })?;
        if keys.flag("use_bidirectional_attention")? == Some(true) {
            return Err(keys.wrong("use_bidirectional_attention", "is true".into(), "false"));
        }
        let rope = rope_of(keys, &family)?;
        let hidden_size = keys.count("hidden_size")?;
        let num_attention_heads = keys.count("num_attention_heads")?;
        let num_hidden_layers = keys.count("num_hidden_layers")?;
        let attention_bias = match family.biases {
            Biases::None => false,
            Biases::Qkv => true,
            Biases::Attention | Biases::Both => keys.flag("attention_bias")?.unwrap_or(false),
        };
        let (sliding_window, layer_types) = windows_of(keys, &family, num_hidden_layers)?;
        // Only architectures that have these look for their keys.
        let scalar = |key, default| match family.norm_placement {
            NormPlacement::Pre => Ok(None),
            NormPlacement::Sandwich => keys.or(key, default, NUMBER, positive_number),
        };
        let spec = Self {
            hidden_size,
            intermediate_size: keys.count("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: keys
                .or("num_key_value_heads", family.num_key_value_heads, COUNT, positive)?
                .unwrap_or(num_attention_heads),
            head_dim: head_dim_of(keys, &family, hidden_size, num_attention_heads)?,
            vocab_size: keys.count("vocab_size")?,
            max_position_embeddings: keys.count("max_position_embeddings")?,
            rms_norm_eps: keys.number("rms_norm_eps")?,
            rope_theta: rope.theta,
            rope_scaling: rope.scaling,
            rope_local_base_freq: rope.local_theta,
            partial_rotary_factor: rope.partial,
            hidden_act: activation_of(keys, &family)?,
            tie_word_embeddings: keys
                .flag("tie_word_embeddings")?
                .unwrap_or(family.tie_word_embeddings),
            attention_bias,
            attention_output_bias: attention_bias && family.biases != Biases::Qkv,
            mlp_bias: family.biases == Biases::Both && keys.flag("mlp_bias")?.unwrap_or(false),
            fused_projections: family.fused_projections,
            qk_norm: family.qk_norm,
            norm_placement: family.norm_placement,
            norm_unit_offset: family.gemma,
            scaled_embedding: family.gemma,
            query_pre_attn_scalar: scalar("query_pre_attn_scalar", family.query_pre_attn_scalar)?,
            attn_logit_softcapping: scalar(
                "attn_logit_softcapping",
                family.attn_logit_softcapping,
            )?,
            final_logit_softcapping: scalar(
                "final_logit_softcapping",
                family.final_logit_softcapping,
            )?,
            sliding_window,
            layer_types,
            bos_token_id: keys.optional("bos_token_id", "a token id", token)?,
            eos_token_ids: keys
                .optional("eos_token_id", "a token id or a list of them", tokens)?
                .unwrap_or_default(),
            pad_token_id: keys.optional("pad_token_id", "a token id", token)?,
            stored: StoredWeights::of_config(keys)?,
            model_type,
        };
        spec.consistent(CONFIG)
    }

    /// The `config.json` of a model of this shape that came without one; the inverse of [`Self::from_hf_config`].
    #[must_use]
    pub fn to_hf_config(&self) -> Value {
        let act = match self.hidden_act {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        };
        let layer_types = if self.layer_types.is_empty() {
            json!(vec![LayerType::FullAttention; self.num_hidden_layers])
        } else {
            json!(self.layer_types)
        };
        let mut config = json!({
            "architectures": [Family::of_hf(&self.model_type).map_or("", |family| family.class)],
            "model_type": self.model_type,
            "hidden_act": act,
            "hidden_activation": act,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "sliding_window": self.sliding_window,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids,
            "pad_token_id": self.pad_token_id,
        });
        let mut only = |means: bool, key: &str, value: Value| {
            if means {
                config[key] = value;
            }
        };
        let family = Family::of_hf(&self.model_type);
        let windows = family.map_or(Windows::Never, |family| family.windows);
        only(
            self.rope_local_base_freq.is_some(),
            "rope_local_base_freq",
            json!(self.rope_local_base_freq),
        );
        only(
            self.partial_rotary_factor < 1.0,
            "partial_rotary_factor",
            json!(self.partial_rotary_factor),
        );
        only(
            self.query_pre_attn_scalar.is_some(),
            "query_pre_attn_scalar",
            json!(self.query_pre_attn_scalar),
        );
        let capped = self.norm_placement == NormPlacement::Sandwich;
        only(capped, "attn_logit_softcapping", json!(self.attn_logit_softcapping));
        only(capped, "final_logit_softcapping", json!(self.final_logit_softcapping));
        only(windows == Windows::Upper, "use_sliding_window", json!(self.sliding_window.is_some()));
        only(matches!(windows, Windows::Upper | Windows::Pattern(_)), "layer_types", layer_types);
        if let Some(RopeScaling::LongRope { original_max_position_embeddings, .. }) =
            &self.rope_scaling
        {
            config["original_max_position_embeddings"] = json!(original_max_position_embeddings);
        }
        config
    }
}

fn head_dim_of(
    keys: Keys<'_>,
    family: &Family,
    hidden_size: usize,
    heads: usize,
) -> Result<usize, ModelSpecError> {
    if let Some(head_dim) = keys.optional_count("head_dim")?.or(family.head_dim) {
        return Ok(head_dim);
    }
    if !hidden_size.is_multiple_of(heads) {
        return Err(ModelSpecError::Shape {
            place: CONFIG,
            why: format!(
                "num_attention_heads {heads} does not divide hidden_size {hidden_size}, and there is no head_dim"
            ),
        });
    }
    Ok(hidden_size / heads)
}

fn activation_of(keys: Keys<'_>, family: &Family) -> Result<Activation, ModelSpecError> {
    // transformers never reads `hidden_act` of a Gemma.
    let key = if family.gemma { "hidden_activation" } else { "hidden_act" };
    match keys.text(key)?.as_deref() {
        None => Ok(family.hidden_act),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        // Gemma's first files say so and mean the tanh form, as transformers takes it.
        Some("gelu") if family.gemma => Ok(Activation::GeluTanh),
        Some(other) => {
            let found = format!("is \"{}\"", other.escape_debug());
            Err(keys.wrong(key, found, "silu or gelu_pytorch_tanh"))
        }
    }
}

/// The window and which blocks have it.
fn windows_of(
    keys: Keys<'_>,
    family: &Family,
    layers: usize,
) -> Result<(Option<usize>, Vec<LayerType>), ModelSpecError> {
    let window = keys.or("sliding_window", family.sliding_window, COUNT, positive)?;
    let listed = || {
        keys.optional("layer_types", "a list of full_attention and sliding_attention", |value| {
            serde_json::from_value::<Vec<LayerType>>(value.clone()).ok()
        })
    };
    let kind = |sliding: bool| {
        if sliding { LayerType::SlidingAttention } else { LayerType::FullAttention }
    };
    let (window, types) = match family.windows {
        Windows::Never => (None, Vec::new()),
        Windows::Always => (window, vec![LayerType::SlidingAttention; layers.min(1 << 16)]),
        Windows::Upper => {
            let used = keys.flag("use_sliding_window")?.unwrap_or(false);
            let first = keys
                .optional("max_window_layers", "a whole number", Value::as_u64)?
                .unwrap_or(28) as usize;
            let types = match listed()? {
                Some(types) => types,
                None => (0..layers.min(1 << 16)).map(|layer| kind(layer >= first)).collect(),
            };
            (window.filter(|_| used), types)
        }
        Windows::Pattern(default) => {
            let every = match keys.optional_count("sliding_window_pattern")? {
                Some(every) => every,
                None => keys.optional_count("_sliding_window_pattern")?.unwrap_or(default),
            };
            let types = match listed()? {
                Some(types) => types,
                None => (1..=layers.min(1 << 16)).map(|n| kind(!n.is_multiple_of(every))).collect(),
            };
            (window, types)
        }
    };
    let sliding = types.contains(&LayerType::SlidingAttention);
    match window {
        Some(window) if sliding => Ok((Some(window), types)),
        // Gemma's files always have a window; without one its pattern has no meaning and neither has it elsewhere.
        _ => Ok((None, Vec::new())),
    }
}
