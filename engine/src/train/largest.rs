//! The largest micro-batch a run has had: what its peak of memory came from.

use fleetune_shared::recipe::{Batching, Objective};
use fleetune_shared::{AsRun, Device, Estimate, MemoryPlan, ModelSpec, Recipe, head_rows};

use crate::data::MicroBatch;

/// Sizes of the micro-batch, or piece of one, with the most tokens computed, of those learned from in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Largest {
    tokens: usize,
    supervised: usize,
    sequences: usize,
    /// As many as added up to a step's gradients at most.
    portions: usize,
}

impl Largest {
    /// One of `portions` of a step.
    pub(super) fn hear(&mut self, batch: &MicroBatch, portions: usize) {
        let heard = Self {
            tokens: batch.tokens_computed(),
            supervised: batch.supervised(),
            sequences: batch.sequences.len(),
            portions: 0,
        };
        *self = Self { portions: self.portions.max(portions), ..(*self).max(heard) };
    }

    /// The estimate of a run whose every micro-batch is this one. None where it had fewer labelled positions than one
    /// chunk of logits, of which the estimate assumes a whole one: such a run shows less than others of its size take.
    pub(super) fn as_run(
        self,
        model: &ModelSpec,
        recipe: &Recipe,
        device: Device,
        plan: &MemoryPlan,
    ) -> Option<AsRun> {
        let rows = self.sequences * recipe.objective.answers();
        let chunk = head_rows(recipe.quantization.halves_activations(device));
        let labelled = self.tokens.saturating_sub(rows).min(chunk);
        let scored = matches!(recipe.objective, Objective::Reward(_));
        if rows == 0 || (self.supervised < labelled && !scored) {
            return None;
        }
        let mut ran = recipe.clone();
        ran.batching = Batching { micro_batch: self.sequences, accumulation: self.portions };
        ran.data.max_length = self.tokens.div_ceil(rows);
        let estimate = Estimate::of_plan(model, &ran, device, plan);
        Some(AsRun { rows: rows as u64, tokens: self.tokens as u64, estimate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;

    fn batch(rows: usize, length: usize, prompt: usize) -> MicroBatch {
        let labels = |i| if i < prompt { -100 } else { 1 };
        let row = Row { input_ids: vec![1; length], labels: (0..length).map(labels).collect() };
        MicroBatch { sequences: (0..rows).collect(), ..MicroBatch::of(&vec![&row; rows]) }
    }

    fn ran(batches: &[MicroBatch]) -> Option<AsRun> {
        let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,
            "num_attention_heads":4,"vocab_size":512,"max_position_embeddings":2048,"rms_norm_eps":1e-5}"#;
        let model = ModelSpec::from_hf_config(config).unwrap();
        let recipe = Recipe::read(
            "model_name_or_path: m\ndataset_name: d\nmax_length: 1024\nper_device_train_batch_size: 4",
        )
        .unwrap();
        let mut largest = Largest::default();
        batches.iter().for_each(|batch| largest.hear(batch, 1));
        largest.as_run(&model, &recipe, Device::Cpu, &MemoryPlan::default())
    }

    #[test]
    fn short_rows_are_held_against_an_estimate_of_short_rows() {
        let short = ran(&[batch(4, 50, 0), batch(4, 100, 0), batch(2, 150, 0)]).unwrap();
        assert_eq!((short.rows, short.tokens, short.length()), (4, 400, 100));
        let full = ran(&[batch(4, 1024, 0), batch(4, 100, 0)]).unwrap();
        assert_eq!(full.tokens, 4096);
        assert!(short.estimate.total() < full.estimate.total());
    }

    #[test]
    fn few_labels_say_nothing_about_runs_with_many() {
        assert_eq!(ran(&[batch(4, 100, 90)]), None, "40 labels do not fill a chunk of 128");
        assert!(ran(&[batch(4, 100, 50)]).is_some());
        assert_eq!(ran(&[]), None);
    }
}
