//! A base and an adapter become one model, and the two are asked the same question.
//!
//! ```text
//!   base ──tensor by tensor──▶ W + s·B·A ──▶ model.safetensors
//!   base + adapter ──logits──▶ compared ◀──logits── merged
//! ```
//!
//! The merged weights go straight to disk, and the two models are held one after the other, never together.

mod base;
mod models;
mod origin;
mod task_vectors;
mod verify;
mod write;

pub use models::{LogitDifference, ModelMergeOrder, ModelMergeSummary, merge_models};
pub use task_vectors::MajoritySign;

use std::time::Instant;

use fleetune_shared::{Device, Estimate, MergeOrder, TrainSummary, TrainerEvent};

use crate::adapter::{self, Adapter, Layer};
use crate::memory;
use crate::model::WeightFiles;
use crate::train::{Observer, publish};
use crate::{EngineError, Result};

/// Carries out a merge (LoRA, arXiv 2106.09685 §4.1). The result has the base's dtypes, tensor by tensor, f32 where
/// the base is a GGUF file. Everything but [`TrainerEvent::Failed`] is told to the observer; a failure is the returned
/// error, and then nothing stands in the output folder.
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
    adapter.fits(base.spec())?;
    let estimate = Estimate::of_merge(base.spec(), Device::Cpu);
    let mut log = |message| observer.event(TrainerEvent::Log { message });
    if let Some(why) = unmergeable(&adapter) {
        return Err(EngineError::input(format!("{}: {why}", order.adapter.display())));
    }
    log(format!("merging {} adapted layers", adapter.layers().count()));
    let summary = publish(&order.out, |folder| {
        base::write(folder, &base, &adapter, &order.model)?;
        log("comparing logits of base + adapter with those of the merged model".into());
        let difference = verify::difference(folder, &base, &order.model, adapter)?;
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

/// What of the adapter has no place in the base's own tensors yet.
fn unmergeable(adapter: &Adapter) -> Option<String> {
    if adapter.whole().next().is_some() {
        return Some("modules trained whole are not merged yet".into());
    }
    let plain = |layer: &Layer| match layer {
        Layer::Lora(lora) => lora.magnitude.is_none() && lora.bias.is_none() && !lora.embedding,
        Layer::Scale(_) => false,
    };
    let (module, _) = adapter.layers().find(|(_, layer)| !plain(layer))?;
    Some(format!("`{module}` has more beside it than a plain LoRA pair, which is not merged yet"))
}
