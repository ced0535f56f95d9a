//! What was trained apart becomes one: an adapter and its base, several adapters, several whole models.
//!
//! ```text
//!   base ──tensor by tensor──▶ W + s·B·A ──▶ model.safetensors      (base)
//!   base + adapter ──logits──▶ compared ◀──logits── merged          (verify)
//!   adapters ──▶ task vectors of their factors or products ──▶ one adapter   (combine, adapters)
//!   models ──tensor by tensor──▶ mean, sphere or task vectors ──▶ one model  (models)
//! ```
//!
//! Merged weights go straight to disk, and models are held one after the other, never together. Beside every result
//! lies `origin.json`: the method, its parameters, and the hashes of what went in.

mod adapters;
mod base;
mod combine;
mod models;
mod origin;
mod task_vectors;
mod verify;
mod write;

pub use adapters::{CombineOrder, CombineSummary, combine_adapters};
pub use combine::{Combination, CombineMethod, Combined};
pub use models::{LogitDifference, ModelMergeOrder, ModelMergeSummary, merge_models};
pub use task_vectors::MajoritySign;

use std::time::Instant;

use fleetune_shared::{Device, Estimate, MergeOrder, TrainSummary, TrainerEvent};

use self::origin::{Origin, Parent};
use crate::adapter;
use crate::memory;
use crate::model::WeightFiles;
use crate::train::{Observer, publish};
use crate::{EngineError, Result};

/// Carries out a merge (LoRA, arXiv 2106.09685 §4.1; DoRA, IA³, embeddings and modules trained whole as well). Sums are
/// f32; the result is stored as [`MergeOrder::onto`] says, f32 where the base is a GGUF file. Everything but
/// [`TrainerEvent::Failed`] is told to the observer; a failure is the returned error, and then nothing stands in the
/// output folder.
///
/// # Errors
/// [`EngineError::Input`] when adapter and base do not belong together, or when the merged model answers otherwise
/// than base and adapter by more than rounding explains.
pub fn merge(order: &MergeOrder, observer: &mut dyn Observer) -> Result<TrainSummary> {
    let begun = Instant::now();
    std::fs::create_dir_all(&order.out).map_err(|e| EngineError::io(&order.out, e))?;
    memory::reset_peak();
    let base = WeightFiles::open(&order.model)?;
    let adapter = adapter::load(&order.adapter)?;
    base::check_mergeable(&adapter, base.spec())?;
    let estimate = Estimate::of_merge(base.spec(), Device::Cpu);
    let stranger = adapter.stranger_to(&order.model)?;
    if let Some(why) = stranger.as_ref().filter(|_| !order.other_base) {
        return Err(EngineError::input(format!(
            "{why}; merge it into its own base, or allow another one (--allow-other-base)"
        )));
    }
    let mut log = |message| observer.event(TrainerEvent::Log { message });
    stranger.map(&mut log);
    log(format!("merging {} adapted layers", adapter.layers().count()));
    let summary = publish(&order.out, |folder| {
        base::write(folder, &base, &adapter, &order.model, order.onto)?;
        origin_of(order)?.save(folder)?;
        log("comparing logits of base + adapter with those of the merged model".into());
        let difference = verify::difference(folder, &base, order, adapter)?;
        log(format!("largest difference of a logit: {difference:.2e}"));
        Ok(TrainSummary {
            seconds: begun.elapsed().as_secs_f64(),
            estimate: Some(estimate),
            memory_bytes_peak: memory::peak(),
            merge_logit_difference: Some(difference),
            ..TrainSummary::default()
        })
    })?;
    observer.event(TrainerEvent::Finished { summary: summary.clone() });
    Ok(summary)
}

fn origin_of(order: &MergeOrder) -> Result<Origin> {
    Ok(Origin {
        method: "merge".into(),
        parameters: serde_json::json!({"onto": order.onto}),
        parents: vec![Parent::model("base", &order.model)?, Parent::adapter(&order.adapter)?],
    })
}
