//! What a recipe may ask for and this engine does not do yet, key by key, so that nothing is silently left out.

use fleetune_shared::Recipe;
use fleetune_shared::recipe::{CheckpointingLevel, LoraInit, Method, Objective, Quantization};

use crate::{EngineError, Result};

/// # Errors
/// [`EngineError::Input`] naming the first key.
pub(super) fn refuse(recipe: &Recipe) -> Result<()> {
    let smoothed = matches!(recipe.objective, Objective::Sft(sft) if sft.label_smoothing > 0.0);
    let mut keys = vec![
        ("task", matches!(recipe.objective, Objective::Reward(_))),
        ("label_smoothing_factor", smoothed),
        ("dtype", recipe.quantization == Quantization::Bfloat16 && !recipe.method.makes_adapter()),
        ("optimizer_in_backward", recipe.optim.in_backward),
        ("gradient_checkpointing", {
            use CheckpointingLevel::{Auto, Selective};
            [Selective, Auto].contains(&recipe.gradient_checkpointing)
        }),
        ("neftune_noise_alpha", recipe.neftune_noise_alpha.is_some()),
    ];
    if let Method::Lora(lora) = &recipe.method {
        let changed = lora.init.changes_base() || lora.init == LoraInit::Loftq;
        keys.push(("init_lora_weights", changed));
    }
    match keys.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((key, _)) => Err(EngineError::input(format!(
            "recipe: `{key}` asks for something this version does not do yet; leave it out"
        ))),
    }
}
