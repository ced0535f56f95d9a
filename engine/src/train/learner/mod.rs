//! What a run minimises, micro-batch by micro-batch.
//!
//! ```text
//!   micro-batch ─▶ Learner ─▶ loss summed over its units, gradients scaled by what the step divides by, metrics
//!                    │ a unit is a labelled token of plain text, or a sequence of answers
//!                    └─▶ objective (pure), model (log-probabilities, backward pass), reference
//! ```

mod answers;
mod reference;
mod scores;

use std::path::Path;
use std::time::Instant;

use fleetune_shared::TrainerEvent;
use fleetune_shared::recipe::Objective;

use self::answers::{Answers, Grading};
use self::scores::Scores;
use super::Observer;
use crate::Result;
use crate::data::{Dataset, MicroBatch};
use crate::model::{Model, Trainable};
use crate::objective::Tally;

/// The objective of a run over one data set, and what it compares with.
pub(super) enum Learner<'a> {
    /// The likelihood of labelled tokens, a share of each label spread over the vocabulary.
    Text { smoothing: f64 },
    /// What is preferred among answers.
    Answers(Answers<'a>),
    /// The scores of answers.
    Scores(Scores),
}

/// What a micro-batch added.
pub(super) struct Learned {
    /// Summed over its units, in nats and unscaled.
    pub(super) loss: f64,
    /// Metrics beside the loss.
    pub(super) tally: Tally,
}

impl<'a> Learner<'a> {
    pub(super) fn new(objective: &Objective, data: &'a Dataset) -> Self {
        let grading = match objective {
            Objective::Sft(sft) => return Self::Text { smoothing: sft.label_smoothing },
            Objective::Reward(settings) => return Self::Scores(Scores::new(*settings)),
            Objective::Dpo(dpo) => Grading::Dpo(dpo.clone()),
            Objective::Kto(kto) => Grading::Kto(*kto),
            Objective::Orpo { beta, .. } => Grading::Orpo { beta: *beta },
            Objective::Cpo(cpo) => Grading::Cpo(*cpo),
        };
        Self::Answers(Answers::new(grading, data))
    }

    /// What the loss of `batch` is a sum over: a step divides once, by those of all its micro-batches.
    pub(super) fn units(&self, batch: &MicroBatch) -> usize {
        match self {
            Self::Text { .. } => batch.supervised(),
            Self::Answers(_) | Self::Scores(_) => batch.sequences.len(),
        }
    }

    /// Adds `scale` times the gradient of the loss of `batch` to everything that learns, and shows `each` of it as soon
    /// as its gradient is whole; see [`Model::forward_backward_each`].
    pub(super) fn learn(
        &self,
        model: &mut Model,
        batch: &MicroBatch,
        scale: f64,
        each: &mut dyn FnMut(&mut Trainable) -> Result<()>,
    ) -> Result<Learned> {
        match self {
            Self::Text { smoothing } => {
                let loss = model.forward_backward_each(batch, scale, *smoothing, each)?;
                Ok(Learned { loss, tally: Tally::default() })
            }
            Self::Answers(answers) => {
                let learned = answers.learn(model, batch, scale)?;
                model.trainables_mut().try_for_each(each)?;
                Ok(learned)
            }
            Self::Scores(scores) => {
                let learned = scores.learn(model, batch, scale)?;
                model.trainables_mut().try_for_each(each)?;
                Ok(learned)
            }
        }
    }

    /// The loss of `batch` as [`Self::learn`] has it, without learning.
    pub(super) fn assess(&self, model: &mut Model, batch: &MicroBatch) -> Result<Learned> {
        match self {
            Self::Text { smoothing } => {
                let loss = model.smoothed_loss(batch, *smoothing)?;
                Ok(Learned { loss, tally: Tally::default() })
            }
            Self::Answers(answers) => answers.assess(model, batch),
            Self::Scores(scores) => scores.assess(model, batch),
        }
    }

    /// What it measures beside the loss, of what a best model can be told by.
    pub(super) fn metrics(&self) -> &'static [&'static str] {
        match self {
            Self::Text { .. } => &[],
            Self::Answers(_) => {
                &["rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"]
            }
            Self::Scores(_) => &["accuracy", "margin"],
        }
    }

    /// Asks `model` about every row, and compares with what it says from here on.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when the observer asks for an end meanwhile.
    pub(super) fn ask_reference(
        &mut self,
        model: &mut Model,
        micro_batch: usize,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Self::Answers(answers) = self else { return Ok(()) };
        let begun = Instant::now();
        let Some(rows) = answers.ask_reference(model, micro_batch, observer)? else {
            return Ok(());
        };
        let seconds = begun.elapsed().as_secs_f64();
        let message = format!("reference: asked about {rows} rows in {seconds:.1} s");
        observer.event(TrainerEvent::Log { message });
        Ok(())
    }

    /// Compares with what [`Self::save_reference`] wrote.
    pub(super) fn recall_reference(&mut self, path: &Path) -> Result<()> {
        match self {
            Self::Text { .. } | Self::Scores(_) => Ok(()),
            Self::Answers(answers) => answers.recall_reference(path),
        }
    }

    /// Writes what it compares with, if that cannot be asked again.
    pub(super) fn save_reference(&self, path: &Path) -> Result<()> {
        match self {
            Self::Text { .. } | Self::Scores(_) => Ok(()),
            Self::Answers(answers) => answers.reference.save(path),
        }
    }
}
