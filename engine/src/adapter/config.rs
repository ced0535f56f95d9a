//! `adapter_config.json`: what we can serve, and the whole set of keys PEFT writes.

use fleetune_shared::AdapterConfig;
use fleetune_shared::recipe::Lora;
use serde_json::{Map, Value, json};

/// The linear layers of a block, as PEFT resolves `all-linear` for this family.
const ALL_LINEAR: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The configuration of a fresh adapter; `base` is the model as the user named it.
#[must_use]
pub fn config_of(lora: &Lora, base: &str) -> AdapterConfig {
    let targets: Vec<&str> = ALL_LINEAR.into_iter().filter(|name| lora.targets(name)).collect();
    AdapterConfig {
        peft_type: "LORA".into(),
        task_type: Some("CAUSAL_LM".into()),
        base_model_name_or_path: Some(base.to_owned()),
        inference_mode: true,
        r: lora.r,
        lora_alpha: lora.lora_alpha,
        lora_dropout: 0.0,
        use_rslora: lora.use_rslora,
        use_dora: false,
        bias: "none".into(),
        lora_bias: false,
        fan_in_fan_out: false,
        init_lora_weights: true.into(),
        target_modules: targets.into(),
        modules_to_save: None,
        rank_pattern: Map::new(),
        alpha_pattern: Map::new(),
        layers_to_transform: Value::Null,
    }
}

/// `lora_alpha / r`, or over `√r` for rsLoRA (arXiv 2312.03732).
pub(super) fn scaling(config: &AdapterConfig) -> f64 {
    let r = config.r as f64;
    config.lora_alpha / if config.use_rslora { r.sqrt() } else { r }
}

/// What in `config` this engine cannot serve, in words.
pub(super) fn unsupported(config: &AdapterConfig) -> Option<String> {
    let not_yet = |key: &str, found: String| {
        Some(format!("`{key}` is {found}, which this engine does not support yet"))
    };
    if config.peft_type != "LORA" {
        let found = config.peft_type.escape_debug();
        return Some(format!("`peft_type` is \"{found}\", expected \"LORA\""));
    }
    if config.r == 0 {
        return Some("`r` is 0, expected a positive rank".into());
    }
    if !config.lora_alpha.is_finite() {
        return Some(format!("`lora_alpha` is {}, expected a number", config.lora_alpha));
    }
    if config.use_dora {
        return not_yet("use_dora", "true".into());
    }
    if config.bias != "none" {
        return not_yet("bias", format!("\"{}\"", config.bias.escape_debug()));
    }
    if config.lora_bias {
        return not_yet("lora_bias", "true".into());
    }
    if config.fan_in_fan_out {
        return not_yet("fan_in_fan_out", "true".into());
    }
    if config.modules_to_save.as_ref().is_some_and(|modules| !modules.is_empty()) {
        return not_yet("modules_to_save", json!(config.modules_to_save).to_string());
    }
    for (key, pattern) in
        [("rank_pattern", &config.rank_pattern), ("alpha_pattern", &config.alpha_pattern)]
    {
        if !pattern.is_empty() {
            return not_yet(key, json!(pattern).to_string());
        }
    }
    // The others begin from a changed base, which the files do not hold.
    let init = &config.init_lora_weights;
    if !init.is_boolean()
        && !init.is_null()
        && !["gaussian", "orthogonal", "eva"].iter().any(|i| init == i)
    {
        return not_yet("init_lora_weights", init.to_string());
    }
    None
}

/// Whether `target_modules` means `module`; `None` when it is a regex, which only PEFT reads.
pub(super) fn targets(config: &AdapterConfig, module: &str) -> Option<bool> {
    let is = |target: &str| {
        module.strip_suffix(target).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    };
    match &config.target_modules {
        Value::Array(names) => Some(names.iter().filter_map(Value::as_str).any(is)),
        Value::String(all) if all == "all-linear" => Some(ALL_LINEAR.into_iter().any(is)),
        _ => None,
    }
}

/// All keys PEFT 0.19 writes, ours filled in.
pub(super) fn to_json(config: &AdapterConfig) -> Value {
    // PEFT's type for it is an integer.
    let whole = config.lora_alpha.fract() == 0.0 && config.lora_alpha.abs() < 1e15;
    let lora_alpha = if whole { json!(config.lora_alpha as i64) } else { json!(config.lora_alpha) };
    json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": config.alpha_pattern,
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": config.base_model_name_or_path,
        "bias": config.bias,
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": null,
        "fan_in_fan_out": config.fan_in_fan_out,
        "inference_mode": config.inference_mode,
        "init_lora_weights": config.init_lora_weights,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": config.layers_to_transform,
        "loftq_config": {},
        "lora_alpha": lora_alpha,
        "lora_bias": config.lora_bias,
        "lora_dropout": config.lora_dropout,
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": config.modules_to_save,
        "monteclora_config": null,
        "peft_type": config.peft_type,
        "peft_version": null,
        "qalora_group_size": 16,
        "r": config.r,
        "rank_pattern": config.rank_pattern,
        "revision": null,
        "target_modules": config.target_modules,
        "target_parameters": null,
        "task_type": config.task_type,
        "trainable_token_indices": null,
        "use_bdlora": null,
        "use_dora": config.use_dora,
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null,
    })
}
