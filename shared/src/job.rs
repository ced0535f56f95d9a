//! A job as it is submitted: what to do, what it reads, what it will need.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::recipe::{CheckpointingLevel, Duration};
use crate::{
    ArtifactFile, BlobHash, ByteSize, Device, Estimate, JobId, MemoryPlan, ModelSpec, Recipe,
    Requirements,
};

/// What a file is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputRole {
    /// Part of the base model's folder, or its GGUF file.
    Model,
    /// A data file.
    Data,
    /// Part of the PEFT folder to start from or to merge.
    Adapter,
}

/// A file a job reads; its blob was uploaded before the job was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What it is to the job.
    pub role: InputRole,
    /// Name, hash and size.
    #[serde(flatten)]
    pub file: ArtifactFile,
}

/// Merging the adapter of a finished job, or an uploaded one, into the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeSpec {
    /// The job whose adapter is merged; its files stand among the inputs.
    pub adapter_of: Option<JobId>,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Train by a recipe.
    Train {
        /// The recipe.
        recipe: Box<Recipe>,
    },
    /// Merge an adapter into its base.
    Merge(MergeSpec),
}

impl Work {
    /// `train` or `merge`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Train { .. } => "train",
            Self::Merge(_) => "merge",
        }
    }
}

/// Everything a user hands over for one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// For people; need not be unique.
    pub name: String,
    /// Higher goes first; within a priority users take turns, and each user's jobs go FIFO.
    pub priority: i32,
    /// Whose job it is, for fair shares; empty where nobody said.
    #[serde(default)]
    pub user: String,
    /// The sweep it belongs to, if any.
    pub sweep: Option<String>,
    /// The keys that a sweep set for this job, as `key → value`, for tables.
    pub sweep_keys: BTreeMap<String, String>,
    /// What to do.
    pub work: Work,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// The base model's shape: what the estimates were made from, and what hints are made from later.
    pub model: ModelSpec,
    /// What it needs, by what computes. The coordinator makes its own on submission.
    pub estimates: BTreeMap<Device, Estimate>,
}

impl JobSpec {
    /// Sizes `work` on `model`, for everything that computes.
    #[must_use]
    pub fn estimates_of(work: &Work, model: &ModelSpec) -> BTreeMap<Device, Estimate> {
        let of = |device| match work {
            Work::Train { recipe } => Estimate::of_training(model, recipe, device),
            Work::Merge(_) => Estimate::of_merge(model, device),
        };
        [Device::Cpu, Device::Cuda].map(|device| (device, of(device))).into()
    }

    /// What the job asks of a card beside memory.
    #[must_use]
    pub fn requirements(&self) -> Option<&Requirements> {
        match &self.work {
            Work::Train { recipe } => Some(&recipe.requirements),
            Work::Merge(_) => None,
        }
    }

    /// The largest file of the base model, which stands for the whole of it.
    #[must_use]
    pub fn base(&self) -> Option<BlobHash> {
        let model = self.inputs.iter().filter(|input| input.role == InputRole::Model);
        model.max_by_key(|input| (input.file.bytes, input.file.blob)).map(|input| input.file.blob)
    }

    /// The most the job can have to compute: 10⁶ parameters × tokens. Absent where only the data says how long it is.
    #[must_use]
    pub fn work_max(&self) -> Option<u64> {
        self.work_of(self.steps()?)
    }

    /// Its optimizer steps, where the recipe says how many.
    #[must_use]
    pub fn steps(&self) -> Option<u64> {
        match &self.work {
            Work::Train { recipe } => match recipe.duration {
                Duration::Steps(steps) => Some(steps),
                Duration::Epochs(_) => None,
            },
            Work::Merge(_) => None,
        }
    }

    /// The most that so many steps can have to compute: 10⁶ parameters × tokens.
    #[must_use]
    pub fn work_of(&self, steps: u64) -> Option<u64> {
        let Work::Train { recipe } = &self.work else { return None };
        let rows = recipe.batching.micro_batch as u64 * recipe.batching.accumulation as u64;
        let tokens = steps.saturating_mul(rows).saturating_mul(recipe.data.max_length as u64);
        Some((u128::from(tokens) * u128::from(self.model.parameters()) / 1_000_000) as u64)
    }

    /// What the job needs on a card that computes with `device`.
    #[must_use]
    pub fn vram_bytes_needed(&self, device: Device) -> Option<ByteSize> {
        self.estimates.get(&device).map(Estimate::total)
    }

    /// What the job can make use of there: what it needs, or more where it keeps as much as there is room for.
    #[must_use]
    pub fn vram_bytes_useful(&self, device: Device) -> Option<ByteSize> {
        let needed = self.vram_bytes_needed(device)?;
        match &self.work {
            Work::Train { recipe } if recipe.gradient_checkpointing == CheckpointingLevel::Auto => {
                let most = MemoryPlan::default();
                Some(Estimate::of_plan(&self.model, recipe, device, &most).total().max(needed))
            }
            Work::Train { .. } | Work::Merge(_) => Some(needed),
        }
    }
}
