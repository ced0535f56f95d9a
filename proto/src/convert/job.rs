//! A job as it is submitted.

use std::collections::BTreeMap;

use fleetune_shared::{Device, JobId, JobSpec, MergeSpec, ModelSpec, Recipe, Work};

use super::{ConvertError, Field, enumeration, list, required, text};
use crate::v1;

impl From<JobSpec> for v1::JobSpec {
    fn from(spec: JobSpec) -> Self {
        Self {
            name: spec.name,
            priority: spec.priority,
            user: Some(spec.user).filter(|user| !user.is_empty()),
            sweep: spec.sweep,
            sweep_keys: spec.sweep_keys.into_iter().collect(),
            work: Some(match spec.work {
                Work::Train { recipe } => v1::job_spec::Work::RecipeJson(recipe.canonical_json()),
                Work::Merge(merge) => v1::job_spec::Work::Merge(merge.into()),
            }),
            inputs: spec.inputs.into_iter().map(Into::into).collect(),
            model_json: model_to_json(&spec.model),
            estimates: spec
                .estimates
                .into_iter()
                .map(|(device, estimate)| v1::DeviceEstimate {
                    device: v1::Device::from(device).into(),
                    estimate: Some(estimate.into()),
                })
                .collect(),
        }
    }
}

impl TryFrom<v1::JobSpec> for JobSpec {
    type Error = ConvertError;
    fn try_from(spec: v1::JobSpec) -> Result<Self, ConvertError> {
        let work = match spec.work {
            Some(v1::job_spec::Work::RecipeJson(json)) => Work::Train {
                recipe: Recipe::read(&json)
                    .map(Box::new)
                    .map_err(|error| ConvertError::new(format!("is refused: {error}")))
                    .field("recipe_json")?,
            },
            Some(v1::job_spec::Work::Merge(merge)) => Work::Merge(merge.into()),
            None => return Err(ConvertError::new("is missing")).field("work"),
        };
        let model = model_from_json(&spec.model_json).field("model_json")?;
        if let Work::Train { recipe } = &work {
            countable(&model, recipe).field("model_json")?;
        }
        let mut estimates = BTreeMap::new();
        for one in spec.estimates {
            let device: Device = enumeration::<v1::Device, _>("estimates.device", one.device)?;
            estimates.insert(device, required("estimates.estimate", one.estimate)?);
        }
        Ok(Self {
            name: text("name", spec.name)?,
            priority: spec.priority,
            user: spec.user.map(|user| text("user", user)).transpose()?.unwrap_or_default(),
            sweep: spec.sweep.map(|sweep| text("sweep", sweep)).transpose()?,
            sweep_keys: spec.sweep_keys.into_iter().collect(),
            work,
            inputs: list("inputs", spec.inputs)?,
            model,
            estimates,
        })
    }
}

impl From<MergeSpec> for v1::MergeSpec {
    fn from(merge: MergeSpec) -> Self {
        Self { adapter_of: merge.adapter_of.map(|job| job.0) }
    }
}

impl From<v1::MergeSpec> for MergeSpec {
    fn from(merge: v1::MergeSpec) -> Self {
        Self { adapter_of: merge.adapter_of.map(JobId) }
    }
}

pub(super) fn model_to_json(model: &ModelSpec) -> String {
    serde_json::to_string(model).unwrap_or_default()
}

/// A shape within what any model has, so that sizing it never overflows.
pub(super) fn model_from_json(json: &str) -> Result<ModelSpec, ConvertError> {
    let model: ModelSpec = serde_json::from_str(json)
        .map_err(|error| ConvertError::new(format!("is no model shape: {error}")))?;
    let sizes = [
        ("hidden_size", model.hidden_size, 1 << 24),
        ("intermediate_size", model.intermediate_size, 1 << 24),
        ("vocab_size", model.vocab_size, 1 << 24),
        ("num_attention_heads", model.num_attention_heads, 1 << 12),
        ("num_key_value_heads", model.num_key_value_heads, 1 << 12),
        ("head_dim", model.head_dim, 1 << 12),
        ("num_hidden_layers", model.num_hidden_layers, 1 << 12),
    ];
    match sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
        Some((key, size, most)) => {
            Err(ConvertError::new(format!("has {key} {size}, expected 1 to {most}")))
        }
        None => Ok(model),
    }
}

fn countable(model: &ModelSpec, recipe: &Recipe) -> Result<(), ConvertError> {
    let widths = [
        model.hidden_size,
        model.intermediate_size,
        model.num_attention_heads * model.head_dim,
        model.num_key_value_heads * model.head_dim,
    ];
    let per_token = widths.iter().sum::<usize>() as u128 * model.num_hidden_layers as u128;
    let tokens = (recipe.batching.micro_batch * recipe.data.max_length) as u128;
    if tokens * per_token > 1 << 56 {
        return Err(ConvertError::new("and recipe_json together need more than any card has"));
    }
    Ok(())
}
