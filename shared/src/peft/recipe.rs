//! From a recipe's settings to the configuration of a fresh adapter.

use super::AdapterConfig;
use crate::ModelSpec;
use crate::recipe::{Ia3, Lora, Method, OneOrManyLayers, PeftType, TargetModules, Targets};

impl AdapterConfig {
    /// The adapter that `method` makes on `model`, which the user calls `base`; `None` where it makes none.
    #[must_use]
    pub fn of(method: &Method, model: &ModelSpec, base: &str) -> Option<Self> {
        let own = match method {
            Method::Full | Method::Freeze(_) => return None,
            Method::Lora(lora) => Self::of_lora(lora, model),
            Method::Ia3(ia3) => Self::of_ia3(ia3, model),
        };
        Some(Self {
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: Some(base.to_owned()),
            inference_mode: true,
            ..own
        })
    }

    fn of_lora(lora: &Lora, model: &ModelSpec) -> Self {
        let ranks = lora.rank_pattern.iter().map(|(pattern, r)| (pattern.clone(), *r as usize));
        Self {
            target_modules: written(&lora.target_modules, model),
            exclude_modules: lora.exclude_modules.as_ref().map(|targets| written(targets, model)),
            modules_to_save: list(&lora.modules_to_save),
            r: lora.r,
            lora_alpha: lora.lora_alpha,
            lora_dropout: lora.dropout,
            use_rslora: lora.use_rslora,
            use_dora: lora.use_dora,
            bias: lora.bias,
            lora_bias: lora.lora_bias,
            init_lora_weights: lora.init,
            rank_pattern: ranks.collect(),
            alpha_pattern: lora.alpha_pattern.clone(),
            layers_to_transform: lora.layers_to_transform.clone().map(OneOrManyLayers::Many),
            ..Self::default()
        }
    }

    fn of_ia3(ia3: &Ia3, model: &ModelSpec) -> Self {
        // PEFT's own choice; it has none for layers that are fused.
        let first = match model.model_type.as_str() {
            "llama" | "mistral" => "k_proj",
            _ => "q_proj",
        };
        let names =
            |names: &[&str]| Targets::Names(names.iter().map(|name| (*name).to_owned()).collect());
        let chosen: &[&str] = if model.fused_projections {
            &["qkv_proj", "down_proj"]
        } else {
            &[first, "v_proj", "down_proj"]
        };
        let targets = ia3.target_modules.clone().unwrap_or(names(chosen));
        let feedforward = ia3.feedforward_modules.clone().unwrap_or(names(&["down_proj"]));
        Self {
            peft_type: PeftType::Ia3,
            target_modules: written(&targets, model),
            feedforward_modules: Some(written(&feedforward, model)),
            modules_to_save: list(&ia3.modules_to_save),
            ..Self::default()
        }
    }
}

/// `all-linear` is written out, as PEFT does, so that blocks can be chosen beside it.
fn written(targets: &Targets, model: &ModelSpec) -> TargetModules {
    match targets {
        Targets::AllLinear => {
            let names = model.linears().into_iter().map(|(name, ..)| name.to_owned());
            TargetModules::Names(names.collect())
        }
        Targets::Names(names) => TargetModules::Names(names.clone()),
        Targets::Regex(pattern) => TargetModules::Word(pattern.clone()),
    }
}

fn list(names: &[String]) -> Option<Vec<String>> {
    (!names.is_empty()).then(|| names.to_vec())
}
