//! `config.json` of every architecture, read, refused by key, and written again.

use serde_json::{Value, json};

use super::{Activation, ModelSpec, ModelSpecError, RopeScaling};

const TINY: &str = r#"{"model_type":"llama","hidden_act":"silu","hidden_size":64,"intermediate_size":160,
    "num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":512,
    "max_position_embeddings":512,"rms_norm_eps":1e-5,"eos_token_id":[2,3],
    "pad_token_id":0}"#;

fn tiny(changes: Value) -> Result<ModelSpec, ModelSpecError> {
    let mut config: Value = serde_json::from_str(TINY).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelSpec::from_hf_config(&config.to_string())
}

#[test]
fn defaults_are_those_of_transformers() {
    let spec = tiny(json!({})).unwrap();
    assert_eq!((spec.head_dim, spec.rope_theta, spec.rope_scaling), (16, 10_000.0, None));
    assert_eq!((spec.eos_token_ids, spec.pad_token_id), (vec![2, 3], Some(0)));
    assert!(!spec.tie_word_embeddings);
    let gemma = tiny(json!({"model_type": "gemma2"})).unwrap();
    assert_eq!((gemma.head_dim, gemma.query_pre_attn_scalar), (256, Some(256.0)));
    assert_eq!(gemma.attn_logit_softcapping, Some(50.0));
    assert_eq!(gemma.hidden_act, Activation::GeluTanh);
    assert!(gemma.tie_word_embeddings && gemma.norm_unit_offset);
    // Null means none, absent means the default.
    let uncapped = json!({"model_type": "gemma2", "attn_logit_softcapping": null});
    assert_eq!(tiny(uncapped).unwrap().attn_logit_softcapping, None);
    let qwen = tiny(json!({"model_type": "qwen2"})).unwrap();
    assert!(qwen.has_bias("k_proj") && !qwen.has_bias("o_proj") && !qwen.has_bias("up_proj"));
}

#[test]
fn windows_lie_where_each_architecture_has_them() {
    let windows = |changes| {
        let spec = tiny(changes).unwrap();
        (0..4).map(|layer| spec.window(layer).unwrap_or(0)).collect::<Vec<_>>()
    };
    assert_eq!(windows(json!({"sliding_window": 8})), [0; 4]);
    assert_eq!(windows(json!({"model_type": "mistral"})), [4096; 4]);
    assert_eq!(windows(json!({"model_type": "mistral", "sliding_window": null})), [0; 4]);
    let qwen = json!({"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 3});
    assert_eq!(windows(qwen.clone()), [0; 4]);
    let mut used = qwen;
    used["use_sliding_window"] = true.into();
    assert_eq!(windows(used), [0, 0, 0, 8]);
    assert_eq!(windows(json!({"model_type": "gemma2"})), [4096, 0, 4096, 0]);
    let gemma = json!({"model_type": "gemma3_text", "sliding_window": 8});
    assert_eq!(windows(gemma.clone()), [8; 4]);
    let mut pattern = gemma.clone();
    pattern["sliding_window_pattern"] = 3.into();
    assert_eq!(windows(pattern), [8, 8, 0, 8]);
    let mut listed = gemma;
    listed["layer_types"] =
        json!(["full_attention", "sliding_attention", "full_attention", "full_attention"]);
    assert_eq!(windows(listed), [0, 8, 0, 0]);
}

#[test]
fn rope_is_read_in_both_spellings() {
    let nested = json!({"rope_type":"llama3","rope_theta":5e5,"factor":8,"low_freq_factor":1,
        "high_freq_factor":4,"original_max_position_embeddings":64});
    let spec = tiny(json!({"rope_parameters": nested})).unwrap();
    assert_eq!(spec.rope_theta, 5e5);
    assert!(matches!(spec.rope_scaling, Some(RopeScaling::Llama3 { factor: 8.0, .. })));
    let flat = tiny(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
    assert_eq!(flat.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));

    let flat = json!({"model_type": "gemma3_text", "rope_theta": 9.0, "rope_local_base_freq": 7.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let nested = json!({"model_type": "gemma3_text", "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 9.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}}});
    let spec = tiny(flat).unwrap();
    assert_eq!(spec, tiny(nested).unwrap());
    assert_eq!((spec.rope_theta, spec.rope_local_base_freq), (9.0, Some(7.0)));
    assert!(spec.rope_scaling.is_some() && spec.has_local_rope(0));
}

#[test]
fn bad_values_are_named() {
    let message = |changes| tiny(changes).unwrap_err().to_string();
    assert_eq!(
        message(json!({"hidden_size": "64"})),
        "config.json: key `hidden_size` is \"64\", expected a positive whole number"
    );
    let cases = [
        (json!({"num_key_value_heads": 3}), "does not divide"),
        (json!({"hidden_size": 65}), "4 does not divide hidden_size 65"),
        (json!({"num_attention_heads": 0}), "`num_attention_heads` is 0"),
        (json!({"head_dim": 0}), "`head_dim` is 0"),
        (json!({"head_dim": 15}), "head_dim is 15, expected an even number"),
        (json!({"rms_norm_eps": -1.0}), "`rms_norm_eps` is -1.0"),
        (json!({"model_type": "mamba"}), "`mamba` is not supported, expected one of: llama, m"),
        (json!({"model_type": "gemma3"}), "`gemma3` is not supported"),
        (json!({"hidden_act": "relu"}), "`hidden_act` is \"relu\""),
        (json!({"partial_rotary_factor": 0.5}), "expected 1 for this architecture"),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4}}),
            "`rope_scaling.rope_type` is \"yarn\", expected default, linear, llama3",
        ),
        (
            json!({"model_type": "phi3", "original_max_position_embeddings": 64,
                "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [2]}}),
            "1 short and 1 long factors, expected 8",
        ),
        (
            json!({"model_type": "gemma2", "sliding_window": 64, "layer_types": ["sliding_attention"]}),
            "layer_types has 1 entries, num_hidden_layers is 4",
        ),
        (
            json!({"model_type": "gemma2", "sliding_window": 64, "layer_types": ["chunked"]}),
            "`layer_types` is [\"",
        ),
        (
            json!({"model_type": "gemma3_text", "use_bidirectional_attention": true}),
            "`use_bidirectional_attention` is true, expected false",
        ),
        (json!({"vocab_size": 1_u64 << 40}), "beyond any known model"),
        (json!({"num_attention_heads": 1_u64 << 62, "head_dim": 64}), "beyond any known model"),
    ];
    for (changes, part) in cases {
        let found = message(changes.clone());
        assert!(found.contains(part), "{changes}: \"{found}\" lacks \"{part}\"");
    }
}

#[test]
fn what_is_written_reads_the_same() {
    for changes in [
        json!({"attention_bias": true, "mlp_bias": true}),
        json!({"model_type": "mistral", "sliding_window": null}),
        json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 2}),
        json!({"model_type": "qwen3", "head_dim": 32}),
        json!({"model_type": "gemma", "head_dim": 32}),
        json!({"model_type": "gemma2", "final_logit_softcapping": 20.0}),
        json!({"model_type": "gemma3_text", "rope_local_base_freq": 5e3}),
        json!({"model_type": "phi3", "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 64, "rope_scaling": {"type": "longrope",
            "short_factor": vec![1.0; 6], "long_factor": vec![2.0; 6]}}),
    ] {
        let spec = tiny(changes).unwrap();
        let again = ModelSpec::from_hf_config(&spec.to_hf_config().to_string()).unwrap();
        assert_eq!(again, spec);
    }
}
