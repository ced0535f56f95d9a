//! A model's shape as GGUF keys.

use fleetune_shared::{ModelSpec, RopeScaling};

use super::NumberType;
use super::file::Value;

/// Keys in the order they are written.
pub(super) type Metadata = Vec<(String, Value)>;

/// Keys of a whole model of this shape.
pub(super) fn of_model(spec: &ModelSpec, name: &str, kind: NumberType) -> Metadata {
    let architecture = spec.gguf_architecture();
    let mut keys = vec![
        ("general.architecture".to_owned(), Value::Text(architecture.into())),
        ("general.type".to_owned(), Value::Text("model".into())),
        ("general.name".to_owned(), Value::Text(name.into())),
        ("general.file_type".to_owned(), Value::U32(kind.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let mut add = |key: &str, value: Value| keys.push((format!("{architecture}.{key}"), value));
    for (key, count) in [
        ("block_count", spec.num_hidden_layers),
        ("context_length", spec.max_position_embeddings),
        ("embedding_length", spec.hidden_size),
        ("feed_forward_length", spec.intermediate_size),
        ("attention.head_count", spec.num_attention_heads),
        ("attention.head_count_kv", spec.num_key_value_heads),
        ("attention.key_length", spec.head_dim),
        ("attention.value_length", spec.head_dim),
        ("rope.dimension_count", spec.rotary_dim()),
        ("vocab_size", spec.vocab_size),
    ] {
        add(key, Value::U32(count as u32));
    }
    add("attention.layer_norm_rms_epsilon", Value::F32(spec.rms_norm_eps as f32));
    add("rope.freq_base", Value::F32(spec.rope_theta as f32));
    // llama.cpp's `llama` knows no window; a Mistral with one is the same up to that many tokens.
    if let Some(window) = spec.sliding_window.filter(|_| architecture != "llama") {
        add("attention.sliding_window", Value::U32(window as u32));
    }
    for (key, cap) in [
        ("attn_logit_softcapping", spec.attn_logit_softcapping),
        ("final_logit_softcapping", spec.final_logit_softcapping),
    ] {
        if let Some(cap) = cap {
            add(key, Value::F32(cap as f32));
        }
    }
    match &spec.rope_scaling {
        Some(RopeScaling::Linear { factor }) => {
            add("rope.scaling.type", Value::Text("linear".into()));
            add("rope.scaling.factor", Value::F32(*factor as f32));
        }
        Some(RopeScaling::LongRope {
            original_max_position_embeddings, attention_factor, ..
        }) => {
            add("rope.scaling.type", Value::Text("longrope".into()));
            let original = *original_max_position_embeddings as u32;
            add("rope.scaling.original_context_length", Value::U32(original));
            add("rope.scaling.attn_factor", Value::F32(*attention_factor as f32));
        }
        // A tensor says it.
        Some(RopeScaling::Llama3 { .. }) | None => {}
    }
    keys
}
