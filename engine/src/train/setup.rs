//! What a run needs before its first step: a recipe that fits the model, rows, and a model that can learn.

use std::collections::BTreeSet;
use std::path::Path;

use fleetune_shared::recipe::{CheckpointingLevel, Lora, Method, Objective};
use fleetune_shared::{AdapterConfig, BlobHash, ModelSpec, Recipe, TrainOrder, TrainerEvent};

use super::{Observer, not_yet};
use crate::adapter::{self, Adapter};
use crate::data::{Dataset, Datasets, Tokenizer};
use crate::model::{self, Model};
use crate::{EngineError, Result};

/// A run's ingredients.
pub(super) struct Setup {
    pub(super) recipe: Recipe,
    pub(super) dataset: Dataset,
    /// Rows for evaluation.
    pub(super) held_out: Option<Dataset>,
    pub(super) model: Model,
    /// Of the adapter that learns; `None` when the whole model does.
    pub(super) adapter: Option<AdapterConfig>,
    /// Tells this base from another.
    pub(super) model_hash: BlobHash,
    /// Tells these rows from others.
    pub(super) data_hash: BlobHash,
}

impl Setup {
    pub(super) fn of(order: &TrainOrder, observer: &mut dyn Observer) -> Result<Self> {
        let spec = model::spec_of(&order.model)?;
        let recipe = order.recipe.clone().fit_model(&spec);
        let recipe = recipe.map_err(|e| EngineError::input(e.to_string()))?;
        not_yet::refuse(&recipe)?;
        let tokenizer = Tokenizer::for_rows(&order.model, &recipe.data)?;
        let Datasets { train: mut dataset, mut held_out } =
            Datasets::load(&order.data, &recipe.data, tokenizer.as_ref(), &spec, recipe.seed)?;
        if matches!(recipe.objective, Objective::Kto(_)) {
            let mismatched =
                |data: Dataset| data.mismatched(recipe.batching.micro_batch, &recipe.data);
            dataset = mismatched(dataset);
            held_out = held_out.map(mismatched);
        }
        let stats = dataset.stats;
        observer.event(TrainerEvent::Log {
            message: format!(
                "{} rows, {} tokens, {} of them supervised, longest row {}; {} dropped, {} truncated",
                stats.rows,
                stats.tokens,
                stats.supervised,
                stats.longest,
                stats.dropped,
                stats.truncated
            ),
        });
        if recipe.data.packing.0.is_some() {
            let (sequences, room) = (dataset.len(), dataset.len() * recipe.data.max_length);
            let tokens: usize = (0..sequences).map(|i| dataset.tokens_of(i)).sum();
            let full = tokens as f64 / room as f64 * 100.0;
            observer.event(TrainerEvent::Log {
                message: format!("packed into {sequences} sequences, {full:.1} % full"),
            });
        }
        for note in &dataset.notes {
            observer.event(TrainerEvent::Log { message: note.clone() });
        }
        let mut model = base(order, &recipe, observer)?;
        model.gradient_checkpointing = recipe.gradient_checkpointing == CheckpointingLevel::Block;
        let adapter = match &recipe.method {
            Method::Full | Method::Freeze(_) | Method::Ia3(_) => {
                model.train_full();
                None
            }
            Method::Lora(lora) => {
                let adapter = adapter(order, &recipe, lora, &spec)?;
                let config = AdapterConfig {
                    base_model_name_or_path: Some(recipe.model.clone()),
                    ..adapter.config().clone()
                };
                model.attach(adapter)?;
                Some(config)
            }
        };
        Ok(Self {
            data_hash: dataset.hash(),
            model_hash: hash_of_base(&order.model, &spec)?,
            recipe,
            dataset,
            held_out,
            model,
            adapter,
        })
    }
}

fn base(order: &TrainOrder, recipe: &Recipe, observer: &mut dyn Observer) -> Result<Model> {
    if recipe.method != Method::Full || model::has_weights(&order.model)? {
        return Model::load_as(&order.model, recipe.quantization);
    }
    observer.event(TrainerEvent::Log {
        message: format!(
            "{} has a configuration but no weights: they are drawn from seed {}",
            order.model.display(),
            recipe.seed
        ),
    });
    Model::random(&order.model, recipe.seed)
}

fn adapter(order: &TrainOrder, recipe: &Recipe, lora: &Lora, spec: &ModelSpec) -> Result<Adapter> {
    let Some(folder) = &order.init_adapter else {
        return Adapter::fresh(spec, lora, &recipe.model, recipe.seed);
    };
    let adapter = adapter::load(folder)?;
    let (file, config) = (recipe.file(), adapter.config());
    let differs = |key: &str, recipe: String, adapter: String| {
        Err(EngineError::input(format!(
            "init_adapter {}: its `{key}` is {adapter}, the recipe's is {recipe}; leave the key out of the recipe \
             to take the adapter's",
            folder.display()
        )))
    };
    if file.r.is_some() && lora.r != config.r {
        return differs("r", lora.r.to_string(), config.r.to_string());
    }
    if file.lora_alpha.is_some_and(|alpha| alpha != config.lora_alpha) {
        return differs("lora_alpha", lora.lora_alpha.to_string(), config.lora_alpha.to_string());
    }
    if file.use_rslora.is_some_and(|rslora| rslora != config.use_rslora) {
        return differs("use_rslora", lora.use_rslora.to_string(), config.use_rslora.to_string());
    }
    let names: BTreeSet<&str> = adapter.modules().filter_map(|m| m.rsplit('.').next()).collect();
    let asked: BTreeSet<&str> = spec
        .linears()
        .into_iter()
        .map(|(name, ..)| name)
        .filter(|name| lora.targets(name))
        .collect();
    if file.target_modules.is_some() && names != asked {
        let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
        return differs("target_modules", list(asked), list(names));
    }
    Ok(adapter)
}

/// Of the model's shape and the sizes of its files: enough to tell a mistake, without reading gigabytes. Names are
/// left out, since a cache gives files other ones.
fn hash_of_base(path: &Path, spec: &ModelSpec) -> Result<BlobHash> {
    let mut hasher = blake3::Hasher::new();
    let shape = serde_json::to_vec(spec).map_err(|e| EngineError::input(e.to_string()))?;
    hasher.update(&shape);
    let mut sizes = Vec::new();
    for file in model::files_of(path)? {
        let weights = file.extension().is_some_and(|e| e == "safetensors" || e == "gguf");
        if weights {
            sizes.push(std::fs::metadata(&file).map_err(|e| EngineError::io(&file, e))?.len());
        }
    }
    sizes.sort_unstable();
    for size in sizes {
        hasher.update(&size.to_le_bytes());
    }
    Ok(BlobHash(*hasher.finalize().as_bytes()))
}
