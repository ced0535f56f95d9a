//! Whom a job's agent may ask for what the job reads.

mod story;

use std::collections::BTreeSet;

use fleetune_scheduler::sources;
use fleetune_scheduler::state::Command;
use fleetune_shared::{
    AgentName, ArtifactFile, BlobHash, ByteSize, Input, InputRole, JobId, JobSpec, Offer,
};
use story::{Fleet, name, needs, offer};

fn blob(n: u8) -> BlobHash {
    BlobHash([n; 32])
}

/// A job that reads these.
fn reads(blobs: &[u8]) -> JobSpec {
    let input = |n: &u8| {
        let name = format!("{n}.safetensors").try_into().unwrap();
        let file = ArtifactFile { name, blob: blob(*n), bytes: ByteSize(20 << 20) };
        Input { role: InputRole::Model, file }
    };
    JobSpec { inputs: blobs.iter().map(input).collect(), ..needs(6.0) }
}

fn sharing(agent: &str, blobs: &[u8]) -> Offer {
    let blobs_cached = blobs.iter().map(|n| blob(*n)).collect();
    Offer { blobs_cached, share: Some(format!("{agent}:7071")), ..offer(1.0) }
}

/// Names and blobs of the sources of a job on `reader`.
fn told(fleet: &Fleet, job: JobId, reader: &str) -> Vec<(String, Vec<u8>)> {
    let found = sources(&fleet.state, &fleet.liveness, fleet.job(job), &name(reader));
    let plain = found.into_iter().map(|source| {
        assert_eq!(source.address, format!("{}:7071", source.agent));
        let blobs = source.blobs.iter().map(|blob| blob.0[0]).collect();
        (source.agent.to_string(), blobs)
    });
    plain.collect()
}

#[test]
fn those_who_keep_it_hand_it_out_and_can_be_heard_are_named() {
    let mut fleet = Fleet::with(&[("reader", 10.0)]);
    fleet.join_with("both", sharing("both", &[1, 2, 9]), &[]);
    fleet.join_with("half", sharing("half", &[2]), &[]);
    fleet.join_with("other", sharing("other", &[9]), &[]);
    fleet.join_with("silent", Offer { share: None, ..sharing("silent", &[1, 2]) }, &[]);
    fleet.join_with("gone", sharing("gone", &[1, 2]), &[]);
    fleet.disconnect("gone");
    let job = fleet.submit(reads(&[1, 2, 3]));
    let expected = [("both".to_owned(), vec![1, 2]), ("half".to_owned(), vec![2])];
    assert_eq!(told(&fleet, job, "reader"), expected);
    // Nobody is sent to itself.
    assert_eq!(told(&fleet, job, "both"), expected[1..]);
    // Who made room for something else is named no more.
    let agent: AgentName = name("both");
    fleet.apply(Command::Offer { agent, offer: sharing("both", &[1]) });
    assert_eq!(told(&fleet, job, "half"), [("both".to_owned(), vec![1])]);
}

#[test]
fn few_are_named_and_not_always_the_same() {
    let mut fleet = Fleet::with(&[("reader", 10.0)]);
    let keepers = ["a", "b", "c", "d", "e", "f", "g"];
    for keeper in keepers {
        fleet.join_with(keeper, sharing(keeper, &[1]), &[]);
    }
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let job = fleet.submit(reads(&[1]));
        let named = told(&fleet, job, "reader");
        assert_eq!(named.len(), 4, "{named:?}");
        seen.extend(named.into_iter().map(|(agent, _)| agent));
    }
    assert_eq!(seen.len(), keepers.len());
}
