//! Whole models become one, as mergekit merges them: tensor by tensor, so that a model never needs to fit.
//!
//! ```text
//!   base ─┐
//!   model ┼─ one tensor of each ─▶ method ─▶ model.safetensors
//!   model ┘
//! ```
//!
//! Whatever their number, at most four tensors of the largest one's size are held, in f32.

mod method;

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Tensor;
use fleetune_shared::{ByteSize, MergeDtype, ModelMerge, ModelSpec, TrainerEvent};
use safetensors::tensor::Dtype;
use serde::Serialize;

use super::origin::{Origin, Parent};
use super::verify;
use super::write::MergedFile;
use crate::memory;
use crate::model::{WeightFiles, save_surroundings};
use crate::train::{Observer, publish};
use crate::{EngineError, Result};

/// One merge of whole models.
#[derive(Clone, Debug)]
pub struct ModelMergeOrder {
    /// What to do; its paths are taken as they are.
    pub merge: ModelMerge,
    /// Seed of DARE's draws.
    pub seed: u64,
    /// Where the merged model goes.
    pub out: PathBuf,
    /// Whether the merged model is loaded, one model at a time, and its logits compared with those of what it was made
    /// from. Without it, no model needs to fit.
    pub compare: bool,
}

/// What a merge of models did.
#[derive(Clone, Debug, Serialize)]
pub struct ModelMergeSummary {
    /// Tensors merged.
    pub tensors: usize,
    /// How long it took.
    pub seconds: f64,
    /// The most that was held while merging, comparison left out.
    pub memory_bytes_peak: ByteSize,
    /// Largest difference of a logit to each model that went in, on a fixed prompt.
    pub logit_differences: Vec<LogitDifference>,
}

/// How far the merged model's answer is from another's.
#[derive(Clone, Debug, Serialize)]
pub struct LogitDifference {
    /// The other model.
    pub model: String,
    /// Largest absolute difference of a logit.
    pub difference: f64,
}

/// The open models of a merge.
struct Sources {
    /// The base, or the first model where there is none.
    first: WeightFiles,
    /// The models, in the order of the merge; without the base.
    models: Vec<WeightFiles>,
    blocks: usize,
}

impl Sources {
    fn open(merge: &ModelMerge) -> Result<Self> {
        let models = merge.models.iter().map(|m| WeightFiles::open(Path::new(&m.path)));
        let models = models.collect::<Result<Vec<_>>>()?;
        let first_path = first_of(merge);
        let first = WeightFiles::open(Path::new(first_path))?;
        let expected = first.tensors();
        for (files, model) in models.iter().zip(&merge.models) {
            let found = files.tensors();
            let differs = found
                .iter()
                .zip(&expected)
                .find(|(found, expected)| found != expected)
                .map(|((name, shape), (other, expected))| {
                    format!(
                        "tensor `{name}` {shape:?}, where {first_path} has `{other}` {expected:?}"
                    )
                });
            let differs = differs.or_else(|| {
                let counts = (found.len(), expected.len());
                let why = format!("{} tensors, where {first_path} has {}", counts.0, counts.1);
                (counts.0 != counts.1).then_some(why)
            });
            if let Some(why) = differs {
                return Err(EngineError::input(format!(
                    "{}: {why}; only models of one architecture and size can be merged",
                    model.path
                )));
            }
        }
        let blocks = first.spec().num_hidden_layers;
        Ok(Self { first, models, blocks })
    }

    /// Where a tensor stands on the way through the model: 0 for the embedding and the first block, 1 for the last
    /// block and what follows.
    fn depth(&self, name: &str) -> f64 {
        match ModelSpec::block_of(name) {
            Some(block) if self.blocks > 1 => block as f64 / (self.blocks - 1) as f64,
            Some(_) => 1.0,
            None if name.starts_with("model.embed_tokens") => 0.0,
            None => 1.0,
        }
    }
}

fn first_of(merge: &ModelMerge) -> &str {
    merge.base.as_ref().unwrap_or(&merge.models[0].path)
}

/// Merges whole models.
///
/// # Errors
/// [`EngineError::Input`] when the models are not of one shape or a setting holds nowhere; then nothing stands in the
/// output folder.
pub fn merge_models(
    order: &ModelMergeOrder,
    observer: &mut dyn Observer,
) -> Result<ModelMergeSummary> {
    let begun = Instant::now();
    let merge = &order.merge;
    std::fs::create_dir_all(&order.out).map_err(|e| EngineError::io(&order.out, e))?;
    let sources = Sources::open(merge)?;
    let mut log = |message| observer.event(TrainerEvent::Log { message });
    let names = sources.first.tensors();
    log(format!("merging {} tensors of {} models", names.len(), merge.models.len()));
    publish(&order.out, |folder| {
        memory::reset_peak();
        write(folder, order, &sources)?;
        let mut summary = ModelMergeSummary {
            tensors: names.len(),
            seconds: begun.elapsed().as_secs_f64(),
            memory_bytes_peak: memory::peak(),
            logit_differences: Vec::new(),
        };
        origin_of(order)?.save(folder)?;
        if order.compare {
            log("comparing logits with those of the models that went in".into());
            let paths = merge.base.iter().chain(merge.models.iter().map(|m| &m.path));
            let paths: Vec<&Path> = paths.map(Path::new).collect();
            for (path, difference) in paths.iter().zip(verify::moved(folder, &paths)?) {
                let model = path.display().to_string();
                summary.logit_differences.push(LogitDifference { model, difference });
            }
        }
        Ok(summary)
    })
}

fn write(folder: &Path, order: &ModelMergeOrder, sources: &Sources) -> Result<()> {
    let first = &sources.first;
    let dtype_of = |name: &str| match order.merge.dtype {
        None => first.dtype(name),
        Some(MergeDtype::Float32) => Dtype::F32,
        Some(MergeDtype::Float16) => Dtype::F16,
        Some(MergeDtype::Bfloat16) => Dtype::BF16,
    };
    let mut file = MergedFile::create(folder, first.tensors(), dtype_of)?;
    for (index, (name, _)) in first.tensors().into_iter().enumerate() {
        memory::check()?;
        let merged = tensor(order, sources, &name, index as u64)?;
        file.put(&merged)?;
    }
    let dtype = file.finish()?;
    save_surroundings(folder, first.spec(), Path::new(first_of(&order.merge)), dtype)
}

fn tensor(order: &ModelMergeOrder, sources: &Sources, name: &str, index: u64) -> Result<Tensor> {
    let depth = sources.depth(name);
    let merge = &order.merge;
    let value = |key: &str, setting: &fleetune_shared::Setting| {
        setting.at(name, depth).ok_or_else(|| {
            EngineError::input(format!(
                "merge file: no filter of `{key}` fits tensor `{name}`; add an entry without a filter"
            ))
        })
    };
    let models = sources.models.iter().zip(&merge.models).zip(0..);
    let changes = models.map(|((files, model), at)| {
        Ok(method::Change {
            files,
            weight: value("weight", &model.weight)?,
            density: value("density", &model.density)?,
            stream: index << 16 | at,
        })
    });
    let changes = changes.collect::<Result<Vec<_>>>()?;
    method::Merging { merge, name, base: &sources.first, changes: &changes, seed: order.seed }
        .run(value("t", &merge.t)?)
}

fn origin_of(order: &ModelMergeOrder) -> Result<Origin> {
    let merge = &order.merge;
    let mut parents = Vec::new();
    if let Some(base) = &merge.base {
        parents.push(Parent::model("base", Path::new(base))?);
    }
    for model in &merge.models {
        parents.push(Parent::model("model", Path::new(&model.path))?);
    }
    let parameters = serde_json::json!({
        "models": merge.models.iter().map(|model| serde_json::json!({
            "model": model.path,
            "weight": model.weight,
            "density": model.density,
        })).collect::<Vec<_>>(),
        "t": merge.t,
        "normalize": merge.normalize,
        "lambda": merge.lambda,
        "dtype": merge.dtype.map(MergeDtype::name),
        "seed": merge.method.draws().then_some(order.seed),
    });
    Ok(Origin { method: merge.method.name().into(), parameters, parents })
}
