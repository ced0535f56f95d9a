//! An agent as the fleet remembers it.

use fleetune_shared::{
    AgentName, Availability, ByteSize, CardFamily, JobSpec, Offer, TrainSummary,
};
use serde::{Deserialize, Serialize};

use super::Load;

/// An agent: one card, one owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// What proves that a session speaks for it: the hash of its key.
    pub key_hash: [u8; 32],
    /// What it lends.
    pub offer: Offer,
    /// Whether it takes new jobs.
    pub draining: bool,
    /// Whether it was paused by hand.
    #[serde(default)]
    pub paused: bool,
    /// False once it was silent for longer than a lease.
    pub present: bool,
    /// What its jobs were measured to compute: 10⁶ parameters × tokens per second; 0 before the first.
    #[serde(default)]
    pub speed: u64,
    /// What is promised on its card.
    #[serde(skip)]
    pub load: Load,
    /// What kind of card it is: derived from the offer, because plans ask often.
    #[serde(skip)]
    pub family: CardFamily,
}

impl Agent {
    /// Whether its card takes jobs: not if it was paused by hand, else as its agent says.
    #[must_use]
    pub fn availability(&self) -> &Availability {
        if self.paused { &Availability::Paused } else { &self.offer.availability }
    }

    /// Whether new jobs may go there at all.
    #[must_use]
    pub fn takes_jobs(&self) -> bool {
        self.is_lent() && self.availability().is_open()
    }

    /// Whether new jobs may go there while its card is open.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.present && !self.draining
    }

    /// Memory a new job could be promised on the card: card − margin − foreign use − promises.
    #[must_use]
    pub fn vram_bytes_open(&self) -> ByteSize {
        ByteSize(self.offer.usable().0.saturating_sub(self.load.vram_bytes))
    }

    /// Whether the card takes another job beside those it has.
    #[must_use]
    pub fn has_slot(&self) -> bool {
        self.load.jobs() < self.offer.jobs_max()
    }

    /// How long a job would take here at the most, where both its length and the agent's speed are known.
    #[must_use]
    pub fn ms_at_most(&self, work: Option<u64>) -> Option<u64> {
        let work = work.filter(|_| self.speed > 0)?;
        Some(u64::try_from(u128::from(work) * 1000 / u128::from(self.speed)).unwrap_or(u64::MAX))
    }

    /// It lends something else from here on.
    pub(super) fn lend(&mut self, offer: Offer) {
        self.family = CardFamily::of(&offer.card);
        self.offer = offer;
    }

    /// A job has ended well: the agent's speed follows, a quarter of the way.
    pub(super) fn measured(&mut self, spec: &JobSpec, summary: &TrainSummary) {
        let parameters = spec.model.parameters() as f64;
        let now = (summary.tokens_per_second * parameters / 1e6) as u64;
        self.speed = match (self.speed, now) {
            (before, 0) => before,
            (0, first) => first,
            (before, now) => (before / 4 * 3).saturating_add(now / 4).max(1),
        };
    }
}
