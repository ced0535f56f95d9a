//! `adapter_config.json`: what PEFT writes and this engine serves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TargetError;
use crate::recipe::{LoraBias, LoraInit, OneOrMany, OneOrManyLayers, PeftType, TargetModules};

/// An adapter's configuration, key by key as PEFT names them. Keys it does not know are ignored, as PEFT does, unless
/// they change what the adapter computes: [`AdapterConfig::read`] refuses those by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterConfig {
    /// The kind of adapter; it decides which of the keys below matter.
    pub peft_type: PeftType,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
    /// The base, as the user named it.
    pub base_model_name_or_path: Option<String>,
    /// True on disk: PEFT loads it frozen unless told otherwise.
    pub inference_mode: bool,
    /// Names, a regular expression or `all-linear`.
    pub target_modules: TargetModules,
    /// Modules that get no adapter all the same.
    pub exclude_modules: Option<TargetModules>,
    /// Modules trained and stored whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Whether weights are stored transposed.
    pub fan_in_fan_out: bool,
    /// LoRA: rank.
    pub r: usize,
    /// LoRA: numerator of the scaling.
    pub lora_alpha: f64,
    /// LoRA: probability of dropping an input of the adapter.
    pub lora_dropout: f64,
    /// LoRA: whether the scaling divides by `√r` (arXiv 2312.03732).
    pub use_rslora: bool,
    /// LoRA: whether a magnitude vector is learned (arXiv 2402.09353).
    pub use_dora: bool,
    /// LoRA: which biases of the base learn.
    pub bias: LoraBias,
    /// LoRA: whether B carries a bias.
    pub lora_bias: bool,
    /// LoRA: how A and B began.
    pub init_lora_weights: LoraInit,
    /// LoRA: ranks by the ends of module names.
    pub rank_pattern: BTreeMap<String, usize>,
    /// LoRA: alphas by the ends of module names.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// LoRA: blocks that get an adapter; all when absent.
    pub layers_to_transform: Option<OneOrManyLayers>,
    /// LoRA: what precedes a block's number in a module's name.
    pub layers_pattern: Option<OneOrMany>,
    /// IA³: those targets whose input is scaled instead of the output.
    pub feedforward_modules: Option<TargetModules>,
    /// IA³: whether the scales began as ones.
    pub init_ia3_weights: bool,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            peft_type: PeftType::Lora,
            task_type: None,
            base_model_name_or_path: None,
            inference_mode: false,
            target_modules: TargetModules::Names(Vec::new()),
            exclude_modules: None,
            modules_to_save: None,
            fan_in_fan_out: false,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            bias: LoraBias::None,
            lora_bias: false,
            init_lora_weights: LoraInit::Default,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_to_transform: None,
            layers_pattern: None,
            feedforward_modules: None,
            init_ia3_weights: true,
        }
    }
}

impl From<LoraInit> for Value {
    fn from(init: LoraInit) -> Self {
        match init {
            LoraInit::Default => true.into(),
            LoraInit::NonZero => false.into(),
            LoraInit::Gaussian => "gaussian".into(),
            LoraInit::Orthogonal => "orthogonal".into(),
            LoraInit::Pissa { niter: None } => "pissa".into(),
            LoraInit::Pissa { niter: Some(niter) } => format!("pissa_niter_{niter}").into(),
            LoraInit::Olora => "olora".into(),
            LoraInit::Loftq => "loftq".into(),
            LoraInit::Eva => "eva".into(),
        }
    }
}

impl TryFrom<Value> for LoraInit {
    type Error = TargetError;

    fn try_from(value: Value) -> Result<Self, TargetError> {
        let word = match &value {
            Value::Null | Value::Bool(true) => return Ok(Self::Default),
            Value::Bool(false) => return Ok(Self::NonZero),
            Value::String(word) => word.to_lowercase(),
            _ => String::new(),
        };
        let niter = word.strip_prefix("pissa_niter_").and_then(|niter| niter.parse().ok());
        match (word.as_str(), niter) {
            ("gaussian", _) => Ok(Self::Gaussian),
            ("orthogonal", _) => Ok(Self::Orthogonal),
            ("pissa", _) => Ok(Self::Pissa { niter: None }),
            (_, Some(niter)) if niter <= 1024 => Ok(Self::Pissa { niter: Some(niter) }),
            ("olora", _) => Ok(Self::Olora),
            ("loftq", _) => Ok(Self::Loftq),
            ("eva", _) => Ok(Self::Eva),
            _ => Err(TargetError::new(
                "init_lora_weights",
                value.to_string(),
                "true, false, gaussian, orthogonal, pissa, pissa_niter_N, olora or loftq",
            )),
        }
    }
}

/// Keys that change what an adapter computes in ways this engine does not, and the values that do not.
const NOT_SERVED: [(&str, &[Value]); 12] = [
    ("alora_invocation_tokens", &[Value::Null]),
    ("arrow_config", &[Value::Null]),
    ("ensure_weight_tying", &[Value::Null, Value::Bool(false)]),
    ("kasa_config", &[Value::Null]),
    ("layer_replication", &[Value::Null]),
    ("monteclora_config", &[Value::Null]),
    ("target_parameters", &[Value::Null]),
    ("trainable_token_indices", &[Value::Null]),
    ("use_bdlora", &[Value::Null, Value::Bool(false)]),
    ("use_qalora", &[Value::Null, Value::Bool(false)]),
    ("velora_config", &[Value::Null]),
    ("fan_in_fan_out", &[Value::Null, Value::Bool(false)]),
];

impl AdapterConfig {
    /// Reads `adapter_config.json`, whoever wrote it.
    ///
    /// # Errors
    /// A sentence naming the key, what it holds and what is expected, for text that is no such file and for adapters
    /// that would compute something else here than in PEFT.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut keys: serde_json::Map<String, Value> =
            serde_json::from_str(text).map_err(|e| e.to_string())?;
        let shown = |value: &Value| value.to_string().chars().take(80).collect::<String>();
        let kind = keys.get("peft_type").unwrap_or(&Value::Null);
        if !["LORA", "IA3"].iter().any(|known| kind == known) {
            return Err(format!("`peft_type` is {}, expected \"LORA\" or \"IA3\"", shown(kind)));
        }
        for (key, harmless) in NOT_SERVED {
            let value = keys.get(key).unwrap_or(&Value::Null);
            if !harmless.contains(value) {
                return Err(format!(
                    "`{key}` is {}, which this engine does not support",
                    shown(value)
                ));
            }
        }
        // PEFT reads an absent key and a null one alike.
        keys.retain(|_, value| !value.is_null());
        if !keys.contains_key("target_modules") {
            return Err("`target_modules` is missing, expected names of modules".into());
        }
        for (key, value) in &keys {
            let one = Value::Object([(key.clone(), value.clone())].into_iter().collect());
            serde_json::from_value::<Self>(one)
                .map_err(|e| format!("`{key}` is {}: {e}", shown(value)))?;
        }
        let config: Self =
            serde_json::from_value(Value::Object(keys)).map_err(|e| e.to_string())?;
        match config.wrong() {
            None => Ok(config),
            Some(why) => Err(why),
        }
    }

    /// Whether `module` is trained and stored whole: PEFT asks how its name ends, whole part or not.
    #[must_use]
    pub fn saves_whole(&self, module: &str) -> bool {
        self.modules_to_save.iter().flatten().any(|name| module.ends_with(name))
    }

    /// The same of twice the rank and the same scaling, which begins without the base.
    #[must_use]
    pub fn doubled(&self) -> Self {
        let alpha = |alpha: f64| alpha * if self.use_rslora { f64::sqrt(2.0) } else { 2.0 };
        let alphas = self.alpha_pattern.iter().map(|(key, value)| (key.clone(), alpha(*value)));
        Self {
            r: 2 * self.r,
            lora_alpha: alpha(self.lora_alpha),
            rank_pattern: self.rank_pattern.iter().map(|(key, r)| (key.clone(), 2 * r)).collect(),
            alpha_pattern: alphas.collect(),
            init_lora_weights: LoraInit::Default,
            ..self.clone()
        }
    }

    /// What is wrong with the numbers or their combination, if anything.
    fn wrong(&self) -> Option<String> {
        let ranks = self.rank_pattern.values().chain([&self.r]);
        if ranks.into_iter().any(|r| *r == 0 || *r > 1 << 20) {
            return Some("`r` is 0 or beyond all sense, expected a positive rank".into());
        }
        let mut alphas = self.alpha_pattern.values().chain([&self.lora_alpha]);
        if let Some(alpha) = alphas.find(|alpha| !alpha.is_finite()) {
            return Some(format!("`lora_alpha` is {alpha}, expected a number"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Some(format!(
                "`lora_dropout` is {}, expected 0 up to, but not including, 1",
                self.lora_dropout
            ));
        }
        if self.use_dora && self.lora_bias {
            return Some("`lora_bias` is true, expected false where `use_dora` is true".into());
        }
        None
    }

    /// All keys PEFT 0.19 writes for this kind of adapter, ours filled in; newer keys would make older versions stumble.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let common = json!({
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "exclude_modules": self.exclude_modules,
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": self.inference_mode,
            "modules_to_save": self.modules_to_save,
            "peft_type": self.peft_type,
            "peft_version": null,
            "revision": null,
            "target_modules": self.target_modules,
            "task_type": self.task_type,
        });
        let own = match self.peft_type {
            PeftType::Ia3 => json!({
                "feedforward_modules": self.feedforward_modules,
                "init_ia3_weights": self.init_ia3_weights,
            }),
            PeftType::Lora => json!({
                "alora_invocation_tokens": null,
                "alpha_pattern": alphas(&self.alpha_pattern),
                "arrow_config": null,
                "bias": self.bias,
                "corda_config": null,
                "ensure_weight_tying": false,
                "eva_config": null,
                "init_lora_weights": self.init_lora_weights,
                "layer_replication": null,
                "layers_pattern": self.layers_pattern,
                "layers_to_transform": self.layers_to_transform,
                "loftq_config": {},
                "lora_alpha": whole(self.lora_alpha),
                "lora_bias": self.lora_bias,
                "lora_dropout": self.lora_dropout,
                "lora_ga_config": null,
                "megatron_config": null,
                "megatron_core": "megatron.core",
                "monteclora_config": null,
                "qalora_group_size": 16,
                "r": self.r,
                "rank_pattern": self.rank_pattern,
                "target_parameters": null,
                "trainable_token_indices": null,
                "use_bdlora": null,
                "use_dora": self.use_dora,
                "use_qalora": false,
                "use_rslora": self.use_rslora,
                "velora_config": null,
            }),
        };
        // Sorted, as PEFT writes them.
        let keys: BTreeMap<String, Value> =
            [common, own].into_iter().filter_map(object).flatten().collect();
        Value::Object(keys.into_iter().collect())
    }
}

fn object(value: Value) -> Option<serde_json::Map<String, Value>> {
    if let Value::Object(keys) = value { Some(keys) } else { None }
}

/// PEFT's alphas are integers; where ours is one, it is written as one.
fn whole(alpha: f64) -> Value {
    let is_whole = alpha.fract() == 0.0 && alpha.abs() < 1e15;
    if is_whole { json!(alpha as i64) } else { json!(alpha) }
}

fn alphas(pattern: &BTreeMap<String, f64>) -> Value {
    pattern.iter().map(|(key, alpha)| (key.clone(), whole(*alpha))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: Value) -> Result<AdapterConfig, String> {
        let mut config = json!({"peft_type": "LORA", "target_modules": ["q_proj"]});
        config[key] = value;
        AdapterConfig::read(&config.to_string())
    }

    #[test]
    fn two_keys_are_enough_and_unknown_ones_are_ignored() {
        let config = with("from_the_future", json!({"a": [1]})).unwrap();
        assert_eq!(
            (config.r, config.lora_alpha, config.init_lora_weights),
            (8, 8.0, LoraInit::Default)
        );
        assert_eq!(with("r", Value::Null).unwrap(), config);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let lora = AdapterConfig {
            target_modules: TargetModules::Word(".*q_proj".into()),
            rank_pattern: [("up_proj".to_owned(), 4)].into(),
            alpha_pattern: [("up_proj".to_owned(), 2.5)].into(),
            layers_to_transform: Some(OneOrManyLayers::Many(vec![1, 2])),
            init_lora_weights: LoraInit::Pissa { niter: Some(16) },
            bias: LoraBias::LoraOnly,
            ..AdapterConfig::default()
        };
        let ia3 = AdapterConfig {
            peft_type: PeftType::Ia3,
            target_modules: TargetModules::Names(vec!["k_proj".into(), "down_proj".into()]),
            feedforward_modules: Some(TargetModules::Names(vec!["down_proj".into()])),
            ..AdapterConfig::default()
        };
        for config in [lora, ia3] {
            assert_eq!(AdapterConfig::read(&config.to_json().to_string()).unwrap(), config);
        }
    }

    #[test]
    fn what_would_compute_something_else_is_refused_by_name() {
        for (key, value, part) in [
            ("peft_type", json!("LOHA"), "`peft_type` is \"LOHA\", expected \"LORA\" or \"IA3\""),
            ("target_modules", Value::Null, "`target_modules` is missing"),
            ("trainable_token_indices", json!([1]), "`trainable_token_indices` is [1]"),
            ("layer_replication", json!([[0, 1]]), "`layer_replication`"),
            ("ensure_weight_tying", json!(true), "`ensure_weight_tying` is true"),
            ("fan_in_fan_out", json!(true), "`fan_in_fan_out` is true"),
            ("init_lora_weights", json!("corda"), "`init_lora_weights` is \"corda\""),
            ("init_lora_weights", json!("pissa_niter_"), "`init_lora_weights`"),
            ("r", json!(0), "`r` is 0"),
            ("r", json!("8"), "`r` is \"8\""),
            ("rank_pattern", json!({"q_proj": 0}), "`r` is 0"),
            ("lora_dropout", json!(1), "`lora_dropout` is 1"),
            ("bias", json!("some"), "`bias` is \"some\""),
        ] {
            let message = with(key, value).unwrap_err();
            assert!(message.contains(part), "{key}: {message}");
        }
        assert!(AdapterConfig::read("[]").is_err());
    }
}
