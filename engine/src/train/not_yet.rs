//! What a recipe may ask for and this engine does not do yet, key by key, so that nothing is silently left out.

use fleetune_shared::Recipe;
use fleetune_shared::recipe::{
    CheckpointingLevel, LoraBias, LoraInit, Method, Objective, Quantization, Targets,
};

use crate::{EngineError, Result};

/// # Errors
/// [`EngineError::Input`] naming the first key.
pub(super) fn refuse(recipe: &Recipe) -> Result<()> {
    let smoothed = matches!(recipe.objective, Objective::Sft(sft) if sft.label_smoothing > 0.0);
    let mut keys = vec![
        ("task", matches!(recipe.objective, Objective::Reward(_))),
        ("label_smoothing_factor", smoothed),
        ("freeze_trainable_layers", matches!(recipe.method, Method::Freeze(_))),
        ("peft_type", matches!(recipe.method, Method::Ia3(_))),
        ("dtype", recipe.quantization == Quantization::Bfloat16 && !recipe.method.makes_adapter()),
        ("optimizer_in_backward", recipe.optim.in_backward),
        ("gradient_checkpointing", {
            use CheckpointingLevel::{Auto, Selective};
            [Selective, Auto].contains(&recipe.gradient_checkpointing)
        }),
        ("neftune_noise_alpha", recipe.neftune_noise_alpha.is_some()),
    ];
    if let Method::Lora(lora) = &recipe.method {
        keys.extend([
            ("lora_dropout", lora.dropout > 0.0),
            ("use_dora", lora.use_dora),
            ("init_lora_weights", lora.init != LoraInit::Default),
            ("target_modules", matches!(lora.target_modules, Targets::Regex(_))),
            ("exclude_modules", lora.exclude_modules.is_some()),
            ("layers_to_transform", lora.layers_to_transform.is_some()),
            ("rank_pattern", !lora.rank_pattern.is_empty()),
            ("alpha_pattern", !lora.alpha_pattern.is_empty()),
            ("modules_to_save", !lora.modules_to_save.is_empty()),
            ("bias", lora.bias != LoraBias::None),
            ("lora_bias", lora.lora_bias),
        ]);
    }
    match keys.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((key, _)) => Err(EngineError::input(format!(
            "recipe: `{key}` asks for something this version does not do yet; leave it out"
        ))),
    }
}
