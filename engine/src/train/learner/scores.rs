//! Learning to score answers: the chosen one of each pair above the rejected one.

use fleetune_shared::recipe::RewardModelling;

use super::Learned;
use crate::Result;
use crate::data::MicroBatch;
use crate::model::Model;
use crate::objective::{self, Grades};

/// Reward modelling.
pub(in crate::train) struct Scores {
    settings: RewardModelling,
}

impl Scores {
    pub(super) fn new(settings: RewardModelling) -> Self {
        Self { settings }
    }

    pub(super) fn learn(
        &self,
        model: &mut Model,
        batch: &MicroBatch,
        scale: f64,
    ) -> Result<Learned> {
        let Grades { loss, tally, .. } = model.forward_backward_scored(batch, |scores| {
            let grades = objective::reward(&self.settings, scores);
            let pulls = grades.gradient.iter().map(|pull| scale * pull).collect();
            Ok((grades, pulls))
        })?;
        Ok(Learned { loss, tally })
    }

    pub(super) fn assess(&self, model: &Model, batch: &MicroBatch) -> Result<Learned> {
        let Grades { loss, tally, .. } = objective::reward(&self.settings, &model.scores(batch)?);
        Ok(Learned { loss, tally })
    }
}
