//! What a run needs before its first step: a recipe that fits the model, rows, and a model that can learn.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::{self, JoinHandle};

use fleetune_shared::recipe::{
    CheckpointingLevel, Method, Objective, PeftType, Quantization, RecipeFile,
};
use fleetune_shared::{
    AdapterConfig, BlobHash, Estimate, MemoryPlan, ModelSpec, Recipe, TrainOrder, TrainerEvent,
};

use super::{Observer, not_yet};
use crate::adapter::{self, Adapter};
use crate::data::{Dataset, Datasets, Tokenizer};
use crate::model::{self, Identity, Model};
use crate::{EngineError, Result};

/// What a reward model has in the head's place, by transformers' name.
const SCORE: &str = "score";

/// A run's ingredients.
pub(super) struct Setup {
    pub(super) recipe: Recipe,
    pub(super) dataset: Dataset,
    /// Rows for evaluation.
    pub(super) held_out: Option<Dataset>,
    pub(super) model: Model,
    /// Of the adapter that learns; `None` when the whole model does.
    pub(super) adapter: Option<AdapterConfig>,
    /// The chat template that the recipe put in place of the model's own, if it did.
    pub(super) template: Option<String>,
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
        let memory_plan = plan_memory(&recipe, &spec, order, observer);
        let weights = read_ahead(order, &recipe)?;
        let tokenizer = Tokenizer::for_rows(&order.model, &recipe.data)?;
        let Datasets { train: mut dataset, mut held_out } =
            Datasets::load(&order.data, &recipe.data, tokenizer.as_ref(), &spec, recipe.seed)?;
        if matches!(recipe.objective, Objective::Kto(_)) {
            let rows = recipe.batching.micro_batch;
            dataset = dataset.mismatched(rows, &recipe.data);
            held_out = held_out.map(|held_out| held_out.mismatched(rows, &recipe.data));
        }
        let named = recipe.data.chat_template.is_some() || recipe.data.chat_template_path.is_some();
        let template = tokenizer.as_ref().filter(|_| named).and_then(Tokenizer::chat_template);
        let template = template.map(|(source, _)| source.to_owned());
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
        let mut model = base(order, &recipe, weights, observer)?;
        model.memory_plan = memory_plan;
        model.neftune_noise_alpha = recipe.neftune_noise_alpha;
        model.disable_dropout = recipe.objective.disables_dropout();
        let rewards = matches!(recipe.objective, Objective::Reward(_));
        let mut score = None;
        let adapter = match &recipe.method {
            Method::Full if recipe.quantization == Quantization::Bfloat16 => {
                model.train_full_bf16()?;
                None
            }
            Method::Full => {
                model.train_full();
                None
            }
            Method::Freeze(freeze) => {
                model.train_some(freeze)?;
                None
            }
            Method::Lora(_) | Method::Ia3(_) => {
                let mut adapter = adapter(order, &recipe, &spec)?;
                if let Some(message) = adapter.stranger_to(&order.model)? {
                    observer.event(TrainerEvent::Log { message });
                }
                if rewards {
                    score = adapter.take_whole(&format!("{SCORE}.weight"), SCORE);
                }
                let mut config = AdapterConfig {
                    base_model_name_or_path: Some(recipe.model.clone()),
                    ..adapter.config().clone()
                };
                if rewards {
                    config.task_type = Some("SEQ_CLS".into());
                    config.modules_to_save.get_or_insert_default().push(SCORE.into());
                }
                if model.attach(adapter)?.unties_head {
                    observer.event(TrainerEvent::Log {
                        message: "the head was tied to the embedding; with this adapter each has numbers of its own"
                            .into(),
                    });
                }
                Some(config)
            }
        };
        if rewards {
            model.score_answers(score, recipe.seed)?;
        }
        Ok(Self {
            data_hash: dataset.hash(),
            model_hash: hash_of_base(&order.model, &spec)?,
            recipe,
            dataset,
            held_out,
            template,
            model,
            adapter,
        })
    }
}

/// What blocks keep within the order's memory, and a line that says so where the recipe leaves it open.
fn plan_memory(
    recipe: &Recipe,
    spec: &ModelSpec,
    order: &TrainOrder,
    observer: &mut dyn Observer,
) -> MemoryPlan {
    let limit = order.memory_bytes_budget.or(order.memory_bytes_limit);
    let plan = MemoryPlan::within(spec, recipe, order.device, limit);
    if recipe.gradient_checkpointing == CheckpointingLevel::Auto {
        let words = plan.words(spec.num_hidden_layers);
        let estimate = Estimate::of_plan(spec, recipe, order.device, &plan).total();
        let bound = limit.map_or_else(|| "no limit".into(), |limit| format!("a limit of {limit}"));
        observer.event(TrainerEvent::Log {
            message: format!(
                "gradient_checkpointing: {words}, by an estimate of {estimate} under {bound}"
            ),
        });
    }
    plan
}

/// A base whose weights are read on a thread of their own.
type Weights = JoinHandle<Result<Model>>;

/// Begins to read the weights, so that rows are tokenised meanwhile; `None` where there are no weights. Whoever finds
/// a mistake in the rows need not wait for the rest.
fn read_ahead(order: &TrainOrder, recipe: &Recipe) -> Result<Option<Weights>> {
    if recipe.method == Method::Full && !model::has_weights(&order.model)? {
        return Ok(None);
    }
    let (path, quantization) = (order.model.clone(), recipe.quantization);
    let adapts = matches!(recipe.method, Method::Lora(_) | Method::Ia3(_));
    Ok(Some(thread::spawn(move || {
        // Before the model is there, so that what both take never adds up.
        let identity = adapts.then(|| Identity::of(&path)).transpose()?;
        let mut model = Model::load_as(&path, quantization)?;
        model.identity = identity;
        Ok(model)
    })))
}

fn base(
    order: &TrainOrder,
    recipe: &Recipe,
    weights: Option<Weights>,
    observer: &mut dyn Observer,
) -> Result<Model> {
    if let Some(weights) = weights {
        return weights.join().unwrap_or_else(|panic| resume_unwind(panic));
    }
    observer.event(TrainerEvent::Log {
        message: format!(
            "{} has a configuration but no weights: they are drawn from seed {}",
            order.model.display(),
            recipe.seed
        ),
    });
    Model::random_as(&order.model, recipe.seed, recipe.quantization)
}

fn adapter(order: &TrainOrder, recipe: &Recipe, spec: &ModelSpec) -> Result<Adapter> {
    let asked = AdapterConfig::of(&recipe.method, spec, &recipe.model)
        .ok_or_else(|| EngineError::input("the recipe asks for no adapter"))?;
    let Some(folder) = &order.init_adapter else {
        return Adapter::fresh(spec, asked, recipe.seed);
    };
    let adapter = adapter::load(folder)?;
    let file = recipe.file();
    if let Some((key, asked, found)) = difference(file, &asked, adapter.config(), spec)? {
        return Err(EngineError::input(format!(
            "init_adapter {}: its `{key}` is {found}, the recipe's is {asked}; leave the key out of the recipe to \
             take the adapter's",
            folder.display()
        )));
    }
    // Nothing that was learned depends on it.
    let dropout = file.lora_dropout.unwrap_or(adapter.config().lora_dropout);
    Ok(adapter.with_dropout(dropout))
}

/// The first key that the recipe sets and the adapter contradicts: the key, what is asked for and what is there.
fn difference(
    file: &RecipeFile,
    asked: &AdapterConfig,
    found: &AdapterConfig,
    spec: &ModelSpec,
) -> Result<Option<(&'static str, String, String)>> {
    let kind = |config: &AdapterConfig| match config.peft_type {
        PeftType::Lora => "LORA",
        PeftType::Ia3 => "IA3",
    };
    let text = |config: &AdapterConfig, key: &str| config.to_json()[key].to_string();
    let set = [
        ("r", file.r.is_some()),
        ("lora_alpha", file.lora_alpha.is_some()),
        ("use_rslora", file.use_rslora.is_some()),
        ("use_dora", file.use_dora.is_some()),
        ("rank_pattern", file.rank_pattern.is_some()),
        ("alpha_pattern", file.alpha_pattern.is_some()),
        ("modules_to_save", file.modules_to_save.is_some()),
        ("bias", file.bias.is_some()),
        ("lora_bias", file.lora_bias.is_some()),
    ];
    let set = set.into_iter().filter(|(_, set)| *set).map(|(key, _)| key);
    let lora = set.clone().next().is_some();
    if kind(asked) != kind(found) && (lora || file.peft_type.is_some()) {
        return Ok(Some(("peft_type", kind(asked).into(), kind(found).into())));
    }
    for key in set {
        let (asked, found) = (text(asked, key), text(found, key));
        if asked != found {
            return Ok(Some((key, asked, found)));
        }
    }
    let chosen = [&file.target_modules, &file.exclude_modules].into_iter().any(Option::is_some);
    if !chosen && file.layers_to_transform.is_none() {
        return Ok(None);
    }
    let names = |config: &AdapterConfig| -> Result<BTreeSet<String>> {
        let layout = config.layout(spec).map_err(|e| EngineError::input(e.to_string()))?;
        Ok(layout.modules.into_iter().map(|module| module.name).collect())
    };
    let (asked, found) = (names(asked)?, names(found)?);
    // As few words as tell the two apart.
    let list = |names: &BTreeSet<String>, others: &BTreeSet<String>| {
        let names: Vec<&str> = names.difference(others).map(String::as_str).collect();
        let last: BTreeSet<&str> =
            names.iter().filter_map(|name| name.rsplit('.').next()).collect();
        if last.is_empty() {
            "without them".to_owned()
        } else {
            format!("for {}", last.into_iter().collect::<Vec<_>>().join(", "))
        }
    };
    Ok((asked != found).then(|| ("target_modules", list(&asked, &found), list(&found, &asked))))
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
