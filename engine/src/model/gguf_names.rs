//! llama.cpp's names of tensors and Hugging Face's. Reference: `gguf-py/gguf/tensor_mapping.py` of llama.cpp.

use fleetune_shared::{ModelSpec, NormPlacement};

/// Outside the blocks, as `(gguf, hf)`.
const ENDS: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Inside a block, whatever the architecture.
const ALWAYS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Inside a block, where the same name means another layer.
fn varying(spec: &ModelSpec) -> [(&'static str, &'static str); 3] {
    let before_mlp = match spec.norm_placement {
        NormPlacement::Pre => "post_attention_layernorm",
        NormPlacement::Sandwich => "pre_feedforward_layernorm",
    };
    let up = if spec.fused_projections { "mlp.gate_up_proj" } else { "mlp.up_proj" };
    [("ffn_norm", before_mlp), ("ffn_up", up), ("post_attention_norm", "post_attention_layernorm")]
}

/// `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`.
pub(crate) fn hf_name(gguf: &str, spec: &ModelSpec) -> Option<String> {
    let (module, kind) = gguf.rsplit_once('.')?;
    if let Some((_, hf)) = ENDS.iter().find(|(name, _)| *name == module) {
        return Some(format!("{hf}.{kind}"));
    }
    let (block, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let (_, hf) = modules(spec).find(|(name, _)| *name == module)?;
    Some(format!("model.layers.{block}.{hf}.{kind}"))
}

/// The other way round.
pub(crate) fn gguf_name(hf: &str, spec: &ModelSpec) -> Option<String> {
    let (module, kind) = hf.rsplit_once('.')?;
    if let Some((gguf, _)) = ENDS.iter().find(|(_, name)| *name == module) {
        return Some(format!("{gguf}.{kind}"));
    }
    let (block, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let (gguf, _) = modules(spec).find(|(gguf, name)| {
        // Only a sandwich has a norm there.
        let absent = *gguf == "post_attention_norm" && spec.norm_placement == NormPlacement::Pre;
        *name == module && !absent
    })?;
    Some(format!("blk.{block}.{gguf}.{kind}"))
}

fn modules(spec: &ModelSpec) -> impl Iterator<Item = (&'static str, &'static str)> {
    ALWAYS.into_iter().chain(varying(spec))
}
