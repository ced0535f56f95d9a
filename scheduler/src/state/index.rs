//! What would otherwise be found by going through every job. Derived from the state: never stored, never hashed.

use std::collections::{BTreeMap, BTreeSet};

use fleetune_shared::{AgentName, BlobHash, ByteSize, Device, JobId, JobSpec, Offer, Requirements};

use super::usage::Holding;
use super::{Job, Phase};
use crate::learning::Traits;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Index {
    /// Waiting jobs, with the time of their submission.
    pub(crate) lanes: BTreeMap<Lane, BTreeMap<JobId, u64>>,
    /// Who holds how much.
    pub(crate) holdings: BTreeMap<String, Holding>,
    /// Promises by the priority of their jobs.
    pub(crate) promised: BTreeMap<i32, usize>,
    /// Jobs that others were asked to make room for.
    pub(crate) awaited: BTreeMap<JobId, usize>,
    /// Who keeps which blob.
    pub(crate) caches: BTreeMap<BlobHash, BTreeSet<AgentName>>,
}

/// Waiting jobs that no rule tells apart but their age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) priority: i32,
    pub(crate) user: String,
    pub(crate) shape: Shape,
}

/// What decides where a job can go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shape {
    /// Memory needed by its estimates, by what computes.
    pub(crate) needs: Vec<(Device, u64)>,
    /// What says how far those are off; nothing where they rest on what was tried.
    pub(crate) traits: Option<Traits>,
    /// The most it has to compute, rounded up so that shapes stay few.
    pub(crate) work: Option<u64>,
    pub(crate) requirements: Option<Requirements>,
}

impl Shape {
    pub(crate) fn of(spec: &JobSpec) -> Self {
        Self {
            needs: spec.estimates.iter().map(|(device, e)| (*device, e.total().0)).collect(),
            traits: Some(Traits::of(spec)),
            work: spec.work_max().and_then(u64::checked_next_power_of_two),
            requirements: spec.requirements().filter(|r| **r != Requirements::default()).cloned(),
        }
    }

    /// Of a job, as its rung has it.
    pub(crate) fn of_job(job: &Job) -> Self {
        let shape = Self::of(&job.spec);
        let Some(adapted) = job.rung.adapted() else { return shape };
        let need = |device: &Device| Some((*device, adapted.vram_bytes_needed(*device)?.0));
        let needs = adapted.estimates.keys().filter_map(need).collect();
        Self { needs, traits: None, ..shape }
    }

    /// Memory needed by its estimate, not corrected.
    pub(crate) fn estimated(&self, device: Device) -> Option<ByteSize> {
        self.needs.iter().find(|(d, _)| *d == device).map(|(_, bytes)| ByteSize(*bytes))
    }

    /// Whether a card is what is asked for, apart from memory.
    pub(crate) fn suits(&self, offer: &Offer) -> bool {
        self.requirements.as_ref().is_none_or(|ask| ask.unmet(offer).is_none())
    }

    pub(crate) fn anti_affinity(&self) -> Option<&str> {
        self.requirements.as_ref().and_then(|ask| ask.anti_affinity.as_deref())
    }
}

impl Lane {
    fn of(job: &Job) -> Self {
        let JobSpec { priority, user, .. } = &job.spec;
        Self { priority: *priority, user: user.clone(), shape: Shape::of_job(job) }
    }
}

impl Index {
    pub(super) fn add(&mut self, job: &Job) {
        if job.phase == Phase::Queued {
            self.lanes.entry(Lane::of(job)).or_default().insert(job.id, job.submitted_ms);
        }
        if let Some(lease) = job.lease() {
            let holding = self.holdings.entry(job.spec.user.clone()).or_default();
            holding.add(lease.vram_bytes.0, lease.since_ms);
            *self.promised.entry(job.spec.priority).or_default() += 1;
            if let Some(awaited) = lease.yielding_to {
                *self.awaited.entry(awaited).or_default() += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, job: &Job) {
        if job.phase == Phase::Queued {
            let lane = Lane::of(job);
            let empty = self.lanes.get_mut(&lane).is_some_and(|jobs| {
                jobs.remove(&job.id);
                jobs.is_empty()
            });
            if empty {
                self.lanes.remove(&lane);
            }
        }
        if let Some(lease) = job.lease() {
            if let Some(holding) = self.holdings.get_mut(&job.spec.user) {
                holding.remove(lease.vram_bytes.0, lease.since_ms);
                if holding.is_empty() {
                    self.holdings.remove(&job.spec.user);
                }
            }
            count_down(&mut self.promised, job.spec.priority);
            if let Some(awaited) = lease.yielding_to {
                count_down(&mut self.awaited, awaited);
            }
        }
    }

    pub(super) fn recache(&mut self, agent: &AgentName, before: Option<&Offer>, now: &Offer) {
        let none = BTreeSet::new();
        let before = before.map_or(&none, |offer| &offer.blobs_cached);
        for blob in before.difference(&now.blobs_cached) {
            if let Some(agents) = self.caches.get_mut(blob) {
                agents.remove(agent);
                if agents.is_empty() {
                    self.caches.remove(blob);
                }
            }
        }
        for blob in now.blobs_cached.difference(before) {
            self.caches.entry(*blob).or_default().insert(agent.clone());
        }
    }
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
