//! How long jobs take, by what was measured: their own pace, then that of their kind on such cards, then the card's.

use fleetune_shared::CardFamily;

use super::{Agent, Basis, Job, State};
use crate::learning::{Speed, Traits};

impl State {
    /// How long a job would take on an agent's card, from its last checkpoint on. `None` where nothing tells its length
    /// (its recipe counts epochs and no trainer has seen the data), or nothing of its kind and nothing on that card has
    /// ended well yet.
    #[must_use]
    pub fn ms_expected(&self, job: &Job, agent: &Agent) -> Option<u64> {
        let work = job.work_left()?;
        match self.speeds.of(agent.family, Traits::of(&job.spec)) {
            Some(speed) => Some(speed.ms(work)),
            None => agent.ms_at_most(Some(work)),
        }
    }
}

impl Job {
    /// The most it has to compute from its last checkpoint on.
    fn work_left(&self) -> Option<u64> {
        let done = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        let steps = self.spec.steps().or(self.steps_total)?;
        self.spec.work_of(steps.saturating_sub(done))
    }

    /// How fast the live attempt went, if it ends now.
    pub(super) fn speed(&self, now_ms: u64) -> Option<(CardFamily, Traits, Speed)> {
        // A promise from before this was written down says nothing of its card.
        let lease = self.lease().filter(|lease| lease.basis != Basis::default())?;
        let steps = self.steps_total?.checked_sub(self.pace?.began.0)?;
        let work = self.spec.work_of(steps)?;
        let speed = Speed::of(work, now_ms.saturating_sub(lease.since_ms))?;
        Some((lease.basis.family, Traits::of(&self.spec), speed))
    }
}
