//! What a recipe may ask for and this engine does not do yet, key by key, so that nothing is silently left out.

use fleetune_shared::Recipe;
use fleetune_shared::recipe::{LoraInit, Method};

use crate::{EngineError, Result};

/// # Errors
/// [`EngineError::Input`] naming the first key.
pub(super) fn refuse(recipe: &Recipe) -> Result<()> {
    match &recipe.method {
        Method::Lora(lora) if lora.init == LoraInit::Loftq => Err(EngineError::input(
            "recipe: `init_lora_weights` asks for something this version does not do yet; leave it out",
        )),
        _ => Ok(()),
    }
}
