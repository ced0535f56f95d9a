//! A job as it is submitted.

use std::collections::BTreeMap;

use fleetune_shared::{Device, JobId, JobSpec, MergeSpec, Recipe, Work};

use super::{ConvertError, Field, enumeration, list, required, text};
use crate::v1;

impl From<JobSpec> for v1::JobSpec {
    fn from(spec: JobSpec) -> Self {
        Self {
            name: spec.name,
            priority: spec.priority,
            sweep: spec.sweep,
            sweep_keys: spec.sweep_keys.into_iter().collect(),
            work: Some(match spec.work {
                Work::Train { recipe } => v1::job_spec::Work::RecipeJson(recipe.canonical_json()),
                Work::Merge(merge) => v1::job_spec::Work::Merge(merge.into()),
            }),
            inputs: spec.inputs.into_iter().map(Into::into).collect(),
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
        let mut estimates = BTreeMap::new();
        for one in spec.estimates {
            let device: Device = enumeration::<v1::Device, _>("estimates.device", one.device)?;
            estimates.insert(device, required("estimates.estimate", one.estimate)?);
        }
        Ok(Self {
            name: text("name", spec.name)?,
            priority: spec.priority,
            sweep: spec.sweep.map(|sweep| text("sweep", sweep)).transpose()?,
            sweep_keys: spec.sweep_keys.into_iter().collect(),
            work,
            inputs: list("inputs", spec.inputs)?,
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
