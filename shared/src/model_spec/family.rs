//! What an architecture's name alone implies: the choices its code makes, and the values a file may leave out.
//!
//! transformers leaves out of `config.json` whatever equals the default of the architecture's configuration class, so
//! those defaults are part of the format. Reference: `configuration_*.py` of transformers 5.

use super::{Activation, NormPlacement};

/// One architecture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// `model_type` of `config.json`.
    pub(super) model_type: &'static str,
    /// `general.architecture` of a GGUF file.
    pub(super) gguf: &'static str,
    /// `architectures` of `config.json`.
    pub(super) class: &'static str,
    pub(super) hidden_act: Activation,
    pub(super) tie_word_embeddings: bool,
    /// `None` for `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    /// `None` for as many as query heads.
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) rope_theta: f64,
    pub(super) rope_local_base_freq: Option<f64>,
    /// Whether `partial_rotary_factor` has a meaning.
    pub(super) partial_rotary: bool,
    pub(super) biases: Biases,
    pub(super) fused_projections: bool,
    pub(super) qk_norm: bool,
    pub(super) norm_placement: NormPlacement,
    /// Whether norms multiply by `1 + w` and embeddings by `√hidden_size`.
    pub(super) gemma: bool,
    pub(super) query_pre_attn_scalar: Option<f64>,
    pub(super) attn_logit_softcapping: Option<f64>,
    pub(super) final_logit_softcapping: Option<f64>,
    pub(super) windows: Windows,
    pub(super) sliding_window: Option<usize>,
}

/// Which linear layers carry a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Biases {
    None,
    /// q, k and v.
    Qkv,
    /// As `attention_bias` says, o included.
    Attention,
    /// As `attention_bias` and `mlp_bias` say.
    Both,
}

/// Which blocks have a sliding window, where `layer_types` does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// None; a `sliding_window` means nothing.
    Never,
    /// All, if there is a `sliding_window`.
    Always,
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    Upper,
    /// All but every n-th; n is `sliding_window_pattern`, or this.
    Pattern(usize),
}

const LLAMA: Family = Family {
    model_type: "llama",
    gguf: "llama",
    class: "LlamaForCausalLM",
    hidden_act: Activation::Silu,
    tie_word_embeddings: false,
    head_dim: None,
    num_key_value_heads: None,
    rope_theta: 10_000.0,
    rope_local_base_freq: None,
    partial_rotary: false,
    biases: Biases::Both,
    fused_projections: false,
    qk_norm: false,
    norm_placement: NormPlacement::Pre,
    gemma: false,
    query_pre_attn_scalar: None,
    attn_logit_softcapping: None,
    final_logit_softcapping: None,
    windows: Windows::Never,
    sliding_window: None,
};

const MISTRAL: Family = Family {
    model_type: "mistral",
    // llama.cpp has no architecture of that name: such a file says `llama`, and is read as one.
    gguf: "",
    class: "MistralForCausalLM",
    num_key_value_heads: Some(8),
    biases: Biases::None,
    windows: Windows::Always,
    sliding_window: Some(4096),
    ..LLAMA
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    gguf: "qwen2",
    class: "Qwen2ForCausalLM",
    num_key_value_heads: Some(32),
    biases: Biases::Qkv,
    windows: Windows::Upper,
    sliding_window: Some(4096),
    ..LLAMA
};

const QWEN3: Family = Family {
    model_type: "qwen3",
    gguf: "qwen3",
    class: "Qwen3ForCausalLM",
    head_dim: Some(128),
    biases: Biases::Attention,
    qk_norm: true,
    ..QWEN2
};

const PHI3: Family = Family {
    model_type: "phi3",
    gguf: "phi3",
    class: "Phi3ForCausalLM",
    partial_rotary: true,
    biases: Biases::None,
    fused_projections: true,
    windows: Windows::Always,
    ..LLAMA
};

const GEMMA: Family = Family {
    model_type: "gemma",
    gguf: "gemma",
    class: "GemmaForCausalLM",
    hidden_act: Activation::GeluTanh,
    tie_word_embeddings: true,
    head_dim: Some(256),
    num_key_value_heads: Some(16),
    biases: Biases::Attention,
    gemma: true,
    ..LLAMA
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    gguf: "gemma2",
    class: "Gemma2ForCausalLM",
    num_key_value_heads: Some(4),
    norm_placement: NormPlacement::Sandwich,
    query_pre_attn_scalar: Some(256.0),
    attn_logit_softcapping: Some(50.0),
    final_logit_softcapping: Some(30.0),
    windows: Windows::Pattern(2),
    sliding_window: Some(4096),
    ..GEMMA
};

const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    gguf: "gemma3",
    class: "Gemma3ForCausalLM",
    rope_theta: 1_000_000.0,
    rope_local_base_freq: Some(10_000.0),
    qk_norm: true,
    attn_logit_softcapping: None,
    final_logit_softcapping: None,
    windows: Windows::Pattern(6),
    ..GEMMA2
};

const FAMILIES: [Family; 8] = [LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA, GEMMA2, GEMMA3];

impl Family {
    /// By `model_type` of `config.json`.
    pub(super) fn of_hf(model_type: &str) -> Option<Self> {
        FAMILIES.into_iter().find(|family| family.model_type == model_type)
    }

    /// By `general.architecture` of a GGUF file.
    pub(super) fn of_gguf(architecture: &str) -> Option<Self> {
        let named = |family: &Self| !family.gguf.is_empty() && family.gguf == architecture;
        FAMILIES.into_iter().find(named)
    }

    /// All that [`Self::of_hf`] or, with `gguf`, [`Self::of_gguf`] knows, for a message.
    pub(super) fn supported(gguf: bool) -> String {
        let name = |family: Self| if gguf { family.gguf } else { family.model_type };
        let names: Vec<_> =
            FAMILIES.into_iter().map(name).filter(|name| !name.is_empty()).collect();
        names.join(", ")
    }
}
