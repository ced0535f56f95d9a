//! Who is asked how large a recipe is.

use super::torch::TorchRun;
use super::{Bounded, Estimate, TorchSetting};
use crate::model_shape::{ModelShape, slots_of};
use crate::recipe::{Method, RecipeError, Targets};
use crate::{ByteSize, Device, MemoryPlan, ModelSpec, Recipe};

/// A model and what would train it.
#[derive(Clone, Debug)]
pub enum Sizer {
    /// This engine.
    Fleetune {
        /// The model.
        model: Box<ModelSpec>,
        /// What computes.
        device: Device,
    },
    /// A PyTorch runtime.
    Torch {
        /// The model.
        shape: Box<ModelShape>,
        /// How it is set up.
        setting: TorchSetting,
    },
}

impl Sizer {
    /// The recipe as it is sized: checked against the model, its default length cut to the model's.
    ///
    /// # Errors
    /// [`RecipeError::Value`] for what does not fit the model, and for a micro-batch beyond any machine.
    pub fn prepare(&self, recipe: Recipe) -> Result<Recipe, RecipeError> {
        match self {
            Self::Fleetune { model, .. } => recipe.fit_model(model),
            Self::Torch { shape, .. } => fit_shape(recipe, shape),
        }
    }

    /// Sizes a prepared recipe.
    #[must_use]
    pub fn size(&self, recipe: &Recipe) -> Bounded {
        match self {
            Self::Fleetune { model, device } => {
                Bounded::of_ours(Estimate::of_training(model, recipe, *device), *device)
            }
            Self::Torch { shape, setting } => TorchRun::new(shape, recipe, setting).bounded(),
        }
    }

    /// What a prepared recipe can make use of: more than it needs where the engine keeps as much as there is room for
    /// (`gradient_checkpointing: auto`).
    #[must_use]
    pub fn useful(&self, recipe: &Recipe) -> ByteSize {
        match self {
            Self::Fleetune { model, device } => {
                let plan = MemoryPlan::within(model, recipe, *device, None);
                Estimate::of_plan(model, recipe, *device, &plan).total()
            }
            Self::Torch { .. } => self.size(recipe).total(),
        }
    }

    /// Longest sequence of the model, if it has one.
    #[must_use]
    pub fn length_max(&self) -> Option<u64> {
        match self {
            Self::Fleetune { model, .. } => Some(model.max_position_embeddings as u64),
            Self::Torch { shape, .. } => shape.max_position_embeddings,
        }
    }
}

/// As [`Recipe::fit_model`], of what a shape tells; a longer row than the model was made for is the runtime's business.
fn fit_shape(mut recipe: Recipe, shape: &ModelShape) -> Result<Recipe, RecipeError> {
    let targets = match &recipe.method {
        Method::Lora(lora) => Some(&lora.target_modules),
        Method::Ia3(ia3) => ia3.target_modules.as_ref(),
        Method::Full | Method::Freeze(_) => None,
    };
    if let Some(Targets::Names(names)) = targets {
        let unknown = |name: &&String| {
            let last = name.rsplit('.').next().unwrap_or(name);
            slots_of(last, &shape.model_type).is_empty()
        };
        if let Some(name) = names.iter().find(unknown) {
            return Err(RecipeError::Value {
                key: "target_modules".into(),
                found: format!("`{}`", name.escape_debug()),
                expected: "names of linear layers, such as q_proj, or all-linear".into(),
            });
        }
    }
    if recipe.file().max_length.is_none()
        && let Some(limit) = shape.max_position_embeddings
    {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        recipe.data.max_length = recipe.data.max_length.min(limit);
    }
    let width = shape.hidden_size + shape.query_width() + shape.intermediate_size;
    recipe.some_machine_holds(shape.num_hidden_layers, width)?;
    Ok(recipe)
}
