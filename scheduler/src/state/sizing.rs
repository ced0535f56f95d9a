//! What a job needs on a card: its estimate, corrected by what was learned.

use fleetune_shared::{ByteSize, CardFamily, JobSpec, Ratio};

use super::{Agent, Job, Shape, State};
use crate::ladder::Largest;
use crate::learning::Traits;

impl State {
    /// What an estimate is multiplied by for jobs of these traits on cards of this family; needs without traits rest on
    /// what was tried and stay what they are.
    pub(crate) fn correction(&self, traits: Option<Traits>, family: CardFamily) -> Ratio {
        match traits {
            Some(traits) if !self.corrections.is_empty() => self.corrections.of(family, traits),
            _ => Ratio::ONE,
        }
    }

    /// What a job of this shape needs on such a card; `None` where nothing says.
    pub(crate) fn need(&self, shape: &Shape, family: CardFamily) -> Option<ByteSize> {
        let estimated = shape.estimated(family.device)?;
        Some(self.correction(shape.traits, family).times(estimated))
    }

    /// What a job needs on an agent's card.
    #[must_use]
    pub fn vram_bytes_needed(&self, job: &Job, agent: &Agent) -> Option<ByteSize> {
        self.need(&Shape::of_job(job), agent.family)
    }

    /// The card that could give a job most, of those that are what it asks for.
    pub(super) fn largest_card(&self, spec: &JobSpec) -> Option<Largest<'_>> {
        let shape = Shape::of(spec);
        let agents = self.agents.values().filter(|agent| shape.suits(&agent.offer));
        let largest = agents.max_by_key(|agent| agent.offer.card.usable())?;
        Some(Largest { agent: &largest.name, card: &largest.offer.card })
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
