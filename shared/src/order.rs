//! What an agent hands its trainer, and `fleetune train` and `fleetune merge` hand the engine: local paths
//! only, everything already fetched.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Device, Recipe};

/// One training run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainOrder {
    /// What to do.
    pub recipe: Recipe,
    /// A model folder (config.json, safetensors, tokenizer) or a GGUF file.
    pub model: PathBuf,
    /// Data files, read in this order.
    pub data: Vec<PathBuf>,
    /// A PEFT folder to start from instead of a fresh adapter.
    pub init_adapter: Option<PathBuf>,
    /// Where checkpoints, metrics, report and the result go.
    pub out: PathBuf,
    /// A checkpoint folder to continue from.
    pub resume_from: Option<PathBuf>,
    /// What computes.
    pub device: Device,
    /// The most memory the run may hold; beyond it the run fails as out of memory.
    pub memory_bytes_limit: Option<ByteSize>,
}

/// One merge of an adapter into its base.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MergeOrder {
    /// A model folder or a GGUF file.
    pub model: PathBuf,
    /// A PEFT folder.
    pub adapter: PathBuf,
    /// Where the merged model goes.
    pub out: PathBuf,
}
