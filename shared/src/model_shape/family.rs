//! What an architecture's name alone says about memory. Source: transformers' `modeling_*.py` and
//! `configuration_*.py` of each.

/// One architecture; [`LLAMA`] is what the others differ from.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) gated: bool,
    pub(super) layer_norm: bool,
    pub(super) norms: u64,
    pub(super) qk_norm: bool,
    pub(super) qkv_bias: bool,
    pub(super) linear_bias: bool,
    pub(super) fused_qkv: bool,
    pub(super) fused_gate_up: bool,
    pub(super) tied: bool,
    pub(super) learned_positions: bool,
    pub(super) head_dim: Option<u64>,
    /// `intermediate_size` counts both ways up (the first Qwen).
    pub(super) both_ways: bool,
}

pub(super) const LLAMA: Family = Family {
    gated: true,
    layer_norm: false,
    norms: 2,
    qk_norm: false,
    qkv_bias: false,
    linear_bias: false,
    fused_qkv: false,
    fused_gate_up: false,
    tied: false,
    learned_positions: false,
    head_dim: None,
    both_ways: false,
};

const GEMMA: Family = Family { tied: true, head_dim: Some(256), ..LLAMA };

/// An MLP without a gate, LayerNorms and biases.
const PLAIN: Family =
    Family { gated: false, layer_norm: true, qkv_bias: true, linear_bias: true, ..LLAMA };

/// Of a `model_type`, if it is known.
pub(super) fn family_of(model_type: &str) -> Option<Family> {
    Some(match model_type {
        "llama" | "mistral" | "mixtral" | "olmo" | "internlm2" => LLAMA,
        "qwen" => Family { qkv_bias: true, fused_qkv: true, both_ways: true, ..LLAMA },
        "qwen2" | "qwen2_moe" => Family { qkv_bias: true, ..LLAMA },
        "qwen3" | "qwen3_moe" => Family { qk_norm: true, head_dim: Some(128), ..LLAMA },
        "olmo2" | "olmo3" => Family { qk_norm: true, ..LLAMA },
        "phi3" => Family { fused_qkv: true, fused_gate_up: true, ..LLAMA },
        "gemma" => GEMMA,
        "gemma2" => Family { norms: 4, ..GEMMA },
        "gemma3" | "gemma3_text" => Family { norms: 4, qk_norm: true, ..GEMMA },
        "cohere" | "cohere2" => Family { layer_norm: true, norms: 1, tied: true, ..LLAMA },
        "stablelm" => Family { layer_norm: true, ..LLAMA },
        "starcoder2" => Family { tied: true, ..PLAIN },
        "phi" => Family { norms: 1, ..PLAIN },
        "gptj" => Family { norms: 1, qkv_bias: false, ..PLAIN },
        "gpt_neox" => Family { fused_qkv: true, ..PLAIN },
        "falcon" => Family {
            norms: 1,
            qkv_bias: false,
            linear_bias: false,
            fused_qkv: true,
            tied: true,
            ..PLAIN
        },
        "bloom" => Family { fused_qkv: true, tied: true, ..PLAIN },
        "gpt2" | "gpt_bigcode" => {
            Family { fused_qkv: true, tied: true, learned_positions: true, ..PLAIN }
        }
        "opt" => Family { tied: true, learned_positions: true, ..PLAIN },
        "mpt" => {
            Family { qkv_bias: false, linear_bias: false, fused_qkv: true, tied: true, ..PLAIN }
        }
        _ => return None,
    })
}
