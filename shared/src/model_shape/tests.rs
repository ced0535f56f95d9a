use super::*;
use crate::ModelSpec;

fn shape(name: &str) -> ModelShape {
    ModelShape::from_hf_config(&known_config(name).unwrap()).unwrap()
}

#[test]
fn published_models_have_their_published_number_of_parameters() {
    // Millions, from each model's card or weights.
    let published = [
        ("SmolLM2-135M", 134.5),
        ("meta-llama/Llama-3.2-1B-Instruct", 1235.8),
        ("Llama-3.2-3B", 3212.7),
        ("meta-llama/Llama-2-7b-hf", 6738.4),
        ("llama-2-13b-chat", 13015.9),
        ("Meta-Llama-3.1-8B", 8030.3),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7241.7),
        ("mixtral-8x7b", 46702.8),
        ("Qwen/Qwen-1_8B", 1836.8),
        ("Qwen2.5-7B-Instruct", 7615.6),
        ("qwen3-8b", 8190.7),
        ("gemma-2-2b-it", 2614.3),
        ("phi-1.5", 1418.3),
        ("phi-3-mini-4k-instruct", 3821.1),
        ("pythia-2.8b", 2775.2),
        ("falcon-7b", 6921.7),
        ("gpt2", 124.4),
    ];
    for (name, millions) in published {
        let name = if name == "Qwen/Qwen-1_8B" { "Qwen-1.8B" } else { name };
        let found = shape(name).parameters() as f64 / 1e6;
        assert!(
            (found / millions - 1.0).abs() < 2e-3,
            "{name}: {found} million, published {millions}"
        );
    }
}

#[test]
fn what_the_engine_reads_has_the_same_parameters() {
    let both = known_models().filter_map(|name| {
        let spec = ModelSpec::from_hf_config(&known_config(name)?).ok()?;
        Some((name, spec.parameters(), shape(name).parameters()))
    });
    let both: Vec<_> = both.collect();
    assert!(both.len() > 25, "{}", both.len());
    for (name, spec, shape) in both {
        assert_eq!(spec, shape, "{name}");
    }
}

#[test]
fn other_spellings_of_a_size_are_read() {
    let gpt2 = r#"{"model_type":"gpt2","n_embd":768,"n_layer":12,"n_head":12,"vocab_size":50257,"n_positions":1024}"#;
    assert_eq!(ModelShape::from_hf_config(gpt2).unwrap(), shape("gpt2"));
    let falcon = r#"{"model_type":"falcon","hidden_size":4544,"num_hidden_layers":32,"num_attention_heads":71,
        "multi_query":true,"vocab_size":65024}"#;
    assert_eq!(
        ModelShape::from_hf_config(falcon).unwrap().parameters(),
        shape("falcon-7b").parameters()
    );
    let nested = r#"{"model_type":"gemma3","text_config":{"model_type":"gemma3_text","hidden_size":1152,"num_hidden_layers":26,
        "num_attention_heads":4,"num_key_value_heads":1,"intermediate_size":6912,"vocab_size":262144}}"#;
    assert_eq!(
        ModelShape::from_hf_config(nested).unwrap().parameters(),
        shape("gemma-3-1b").parameters()
    );
    let new = r#"{"model_type":"tomorrow","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
        "intermediate_size":96,"vocab_size":512}"#;
    assert!(ModelShape::from_hf_config(new).unwrap().assumed);
}

#[test]
fn a_missing_or_monstrous_size_is_named() {
    let refused = |text: &str| ModelShape::from_hf_config(text).unwrap_err().to_string();
    let config = |key: &str, value: &str| {
        let mut sizes = vec![
            ("hidden_size", "64"),
            ("num_hidden_layers", "2"),
            ("num_attention_heads", "4"),
            ("intermediate_size", "96"),
            ("vocab_size", "512"),
        ];
        sizes.retain(|(name, _)| *name != key);
        sizes.push((key, value));
        let body: Vec<String> = sizes.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        format!("{{{}}}", body.join(","))
    };
    let missing = refused(&config("hidden_size", "null"));
    assert_eq!(
        missing,
        "config.json: key `hidden_size` or `n_embd` or `d_model` is missing, expected a positive whole number"
    );
    assert!(refused(&config("intermediate_size", "null")).contains("`intermediate_size`"));
    for (key, value) in [
        ("hidden_size", "18446744073709551615"),
        ("num_hidden_layers", "18446744073709551615"),
        ("vocab_size", "99999999999"),
        ("num_attention_heads", "1e300"),
        ("intermediate_size", "-1"),
        ("vocab_size", "\"many\""),
        ("head_dim", "1048576"),
        ("num_key_value_heads", "3"),
        ("num_local_experts", "4096"),
    ] {
        let why = refused(&config(key, value));
        assert!(why.contains(key) || why.contains("parameters"), "{key} {value}: {why}");
    }
    let all = config("hidden_size", "1048576").replace("96", "1048576").replace(":2", ":4096");
    assert!(refused(&all).contains("beyond any known model"));
    assert!(refused("[1]").contains("another JSON value"));
    assert!(refused("{").contains("not a JSON object"));
}
