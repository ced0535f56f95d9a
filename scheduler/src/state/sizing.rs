//! What a job needs on a card: its estimate, corrected by what was learned.

use fleetune_shared::{ByteSize, CardFamily, JobSpec, Ratio};

use super::{Agent, Job, Shape, State};
use crate::learning::Key;

impl State {
    /// What an estimate is multiplied by for jobs of this shape on cards of this family.
    pub(crate) fn correction(&self, shape: &Shape, family: CardFamily) -> Ratio {
        if self.corrections.is_empty() {
            return Ratio::ONE;
        }
        self.corrections.of(&Key { family, traits: shape.traits })
    }

    /// What a job of this shape needs on such a card; `None` where nothing says.
    pub(crate) fn need(&self, shape: &Shape, family: CardFamily) -> Option<ByteSize> {
        let estimated = shape.estimated(family.device)?;
        Some(self.correction(shape, family).times(estimated))
    }

    /// What a job needs on an agent's card.
    #[must_use]
    pub fn vram_bytes_needed(&self, job: &Job, agent: &Agent) -> Option<ByteSize> {
        self.need(&Shape::of(&job.spec), agent.family)
    }

    /// Whether a job would ever run on some card of the fleet, were it otherwise empty.
    pub(super) fn could_hold(&self, spec: &JobSpec) -> bool {
        let shape = Shape::of(spec);
        self.agents.values().any(|agent| {
            let usable = agent.offer.card.usable();
            self.need(&shape, agent.family).is_some_and(|needed| needed <= usable)
                && shape.suits(&agent.offer)
        })
    }
}
