//! The words every room of Fleetune speaks: plain values, no IO, no clock.
//!
//! A *recipe* is what a user writes; a *job* is a recipe the coordinator accepted; a *card* is a GPU as an
//! agent offers it; an *estimate* is the memory a job will need, piece by piece; a *blob* is bytes named by
//! their hash; an *artifact* is a named set of blobs (a checkpoint, an adapter, a merged model).
//!
//! Every other room depends on this one; it depends on none of them.
#![warn(missing_docs)]

mod artifact;
mod availability;
mod batch_change;
mod bytes;
mod card;
mod card_family;
mod estimate;
mod event;
mod gguf;
mod held;
mod history;
mod id;
mod job;
mod memory_plan;
mod model_merge;
mod model_shape;
mod model_spec;
mod order;
pub mod peft;
mod ratio;
pub mod recipe;
mod requirements;
mod source;
mod telemetry;
pub mod view;

pub use artifact::{Artifact, ArtifactFile, ArtifactKind, FileName, FileNameError, Lineage};
pub use availability::{Availability, OwnerSign};
pub use batch_change::BatchChange;
pub use bytes::{ByteSize, ByteSizeError};
pub use card::{Card, Device, Offer};
pub use card_family::CardFamily;
pub use estimate::{
    Attention, Bounded, CARD_SCORES, CHUNK_NUMBERS, CardClass, Change, Estimate, EstimatePart, Fit,
    Headroom, MERGE_PROMPT_TOKENS, Meter, PAGED_NUMBERS, Precision, Runtime, SLAB_ROWS, Sizer,
    TILE_NUMBERS, TorchSetting, changed, changes_to_fit, longest_length, most_rows, runtime_bytes,
};
pub use event::{BestEvaluation, FailureKind, StepMetrics, TrainSummary, TrainerEvent};
pub use gguf::{GgufError, GgufHeader, GgufTensor, GgufType, GgufValue};
pub use history::{Accuracy, AsRun, AttemptEnd, AttemptRecord, Peak, PeakSource, quantile};
pub use id::{AgentName, Attempt, BlobHash, IdError, JobId, RequestId};
pub use job::{Input, InputRole, JobSpec, MergeSpec, Work};
pub use memory_plan::{Keeps, MemoryPlan, head_rows, piece_tokens};
pub use model_merge::{
    MergeDtype, MergedModel, ModelMerge, ModelMergeError, ModelMergeMethod, Setting,
};
pub use model_shape::{ModelShape, known_config, known_models};
pub use model_spec::{
    Activation, LayerType, ModelSpec, ModelSpecError, NormPlacement, RopeScaling, StoredWeights,
};
pub use order::{DataFiles, MergeOnto, MergeOrder, TrainOrder};
pub use peft::AdapterConfig;
pub use ratio::Ratio;
pub use recipe::Recipe;
pub use requirements::Requirements;
pub use source::Source;
pub use telemetry::{Telemetry, Throttle};
