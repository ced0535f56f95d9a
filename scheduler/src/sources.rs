//! Which agents a job's agent is told to fetch from.

use std::collections::{BTreeMap, BTreeSet};

use fleetune_shared::{AgentName, Source};

use crate::Liveness;
use crate::state::{Job, State};

/// So many are told of for a blob: more would hardly be faster.
const AGENTS_MAX: usize = 4;

/// Agents that can be heard now, keep something the job reads, and hand it out. Others than `reader`, and for the next
/// attempt or job other ones first, so that not everybody asks the same.
#[must_use]
pub fn sources(state: &State, liveness: &Liveness, job: &Job, reader: &AgentName) -> Vec<Source> {
    let mut found: BTreeMap<&AgentName, Source> = BTreeMap::new();
    let blobs: BTreeSet<_> = job.spec.inputs.iter().map(|input| input.file.blob).collect();
    for blob in blobs {
        let keepers = state.caches().get(&blob).into_iter().flatten();
        let mut sharing: Vec<_> = keepers
            .filter(|agent| *agent != reader && liveness.is_connected(agent))
            .filter_map(|agent| Some((agent, state.agent(agent)?.offer.share.as_ref()?)))
            .collect();
        if sharing.is_empty() {
            continue;
        }
        let first = (job.id.0 + u64::from(job.attempt.0)) % sharing.len() as u64;
        sharing.rotate_left(first as usize);
        for (agent, address) in sharing.into_iter().take(AGENTS_MAX) {
            let source = found.entry(agent).or_insert_with(|| Source {
                agent: agent.clone(),
                address: address.clone(),
                blobs: BTreeSet::new(),
            });
            source.blobs.insert(blob);
        }
    }
    found.into_values().collect()
}
