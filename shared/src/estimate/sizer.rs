//! Who is asked how large a recipe is.

use super::torch::TorchRun;
use super::{Bounded, Estimate, TorchSetting};
use crate::model_shape::{ModelShape, slots_of};
use crate::recipe::{Method, RecipeError, Targets};
use crate::{Device, ModelSpec, Recipe};

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

/// Numbers of activations in all blocks of a micro-batch, beyond any machine; what passes is counted without overflow.
const NUMBERS_MAX: u128 = 1 << 52;

impl Sizer {
    /// The recipe as it is sized: checked against the model, its default length cut to the model's.
    ///
    /// # Errors
    /// [`RecipeError::Value`] for what does not fit the model, and for a micro-batch beyond any machine.
    pub fn prepare(&self, recipe: Recipe) -> Result<Recipe, RecipeError> {
        let mut recipe = match self {
            Self::Fleetune { model, .. } => recipe.fit_model(model)?,
            Self::Torch { shape, .. } => {
                names_are_known(&recipe, shape)?;
                recipe
            }
        };
        let (layers, width) = match self {
            Self::Fleetune { model, .. } => {
                let width = model.hidden_size + model.query_width() + model.intermediate_size;
                (model.num_hidden_layers as u128, width as u128)
            }
            Self::Torch { shape, .. } => {
                if recipe.file().max_length.is_none()
                    && let Some(limit) = shape.max_position_embeddings
                {
                    recipe.data.max_length = recipe.data.max_length.min(limit as usize);
                }
                let width = shape.hidden_size + shape.query_width() + shape.intermediate_size;
                (u128::from(shape.num_hidden_layers), u128::from(width))
            }
        };
        let rows = recipe.batching.micro_batch as u128 * recipe.objective.answers() as u128;
        let tokens = rows * recipe.data.max_length as u128;
        if tokens * layers * width > NUMBERS_MAX {
            return Err(RecipeError::Value {
                key: "per_device_train_batch_size".into(),
                found: format!("{tokens} tokens at a time with `max_length`"),
                expected: "what some machine could hold".into(),
            });
        }
        Ok(recipe)
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

    /// Longest sequence of the model, if it has one.
    #[must_use]
    pub fn length_max(&self) -> Option<u64> {
        match self {
            Self::Fleetune { model, .. } => Some(model.max_position_embeddings as u64),
            Self::Torch { shape, .. } => shape.max_position_embeddings,
        }
    }
}

fn names_are_known(recipe: &Recipe, shape: &ModelShape) -> Result<(), RecipeError> {
    let targets = match &recipe.method {
        Method::Lora(lora) => Some(&lora.target_modules),
        Method::Ia3(ia3) => ia3.target_modules.as_ref(),
        Method::Full | Method::Freeze(_) => None,
    };
    let Some(Targets::Names(names)) = targets else { return Ok(()) };
    let unknown = |name: &&String| {
        let last = name.rsplit('.').next().unwrap_or(name);
        slots_of(last, &shape.model_type).is_empty()
    };
    match names.iter().find(unknown) {
        None => Ok(()),
        Some(name) => Err(RecipeError::Value {
            key: "target_modules".into(),
            found: format!("`{}`", name.escape_debug()),
            expected: "names of linear layers, such as q_proj, or all-linear".into(),
        }),
    }
}
