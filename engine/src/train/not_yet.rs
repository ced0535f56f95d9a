//! What a recipe may ask for and this engine does not do yet, key by key, so that nothing is silently left out.

use fleetune_shared::Recipe;
use fleetune_shared::recipe::{LoraInit, Method, Quantization};

use crate::{EngineError, Result};

/// # Errors
/// [`EngineError::Input`] naming the first key.
pub(super) fn refuse(recipe: &Recipe) -> Result<()> {
    let mut keys = vec![
        (
            "dtype",
            recipe.quantization == Quantization::Bfloat16
                && matches!(recipe.method, Method::Freeze(_)),
        ),
    ];
    if let Method::Lora(lora) = &recipe.method {
        keys.push(("init_lora_weights", lora.init == LoraInit::Loftq));
    }
    match keys.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((key, _)) => Err(EngineError::input(format!(
            "recipe: `{key}` asks for something this version does not do yet; leave it out"
        ))),
    }
}
