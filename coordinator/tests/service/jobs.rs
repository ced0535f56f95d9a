//! A job's life, and what interrupts it.

use std::time::Duration;

use fleetune_proto::client::WatchEvent;
use fleetune_proto::v1;
use fleetune_shared::view::JobPhase;
use fleetune_shared::{ArtifactKind, Attempt, JobId, Offer};

use crate::agent::{FakeAgent, checkpoint, finished, offer, released, started};
use crate::rig::{GIB, Rig, artifact, spec, submit};

#[tokio::test]
async fn a_job_is_submitted_placed_trained_and_published() {
    let rig = Rig::start().await;
    let (client, folder) = (rig.client(), rig.folder.path());
    let mut agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let id = submit(&client, "one", spec(&client, folder, "first").await).await.unwrap();
    let mut watch = client.watch(id, true);

    let start = agent.started().await;
    assert_eq!((start.job, start.attempt, start.checkpoint), (id.0, 1, None));
    let estimate = client.job(id).await.unwrap().estimate;
    assert_eq!(start.vram_bytes_limit, estimate.total().0);

    assert!(agent.report(id.0, 1, started(30)).await.accepted);
    for step in 1..=3 {
        agent.step(id.0, 1, step, 3.0 / step as f64).await;
    }
    agent.log(id.0, 1, "half way").await;
    let saved = artifact(&client, folder, ArtifactKind::Checkpoint, 15).await;
    assert!(agent.report(id.0, 1, checkpoint(saved)).await.accepted);
    let job = client.job(id).await.unwrap();
    assert_eq!((job.phase, job.checkpoint_step), (JobPhase::Running, Some(15)));
    assert_eq!(job.latest.unwrap().step, 3);

    let result = artifact(&client, folder, ArtifactKind::Adapter, 30).await;
    assert!(agent.report(id.0, 1, finished(result.clone())).await.accepted);
    // Whose acknowledgement is lost reports again.
    assert!(agent.report(id.0, 1, finished(result.clone())).await.accepted);
    let job = client.job(id).await.unwrap();
    assert_eq!((job.phase, job.artifact), (JobPhase::Succeeded, Some(result)));
    assert_eq!(job.lineage.unwrap().job, id);

    let (mut phases, mut steps, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(event) = watch.next().await.unwrap() {
        match event {
            WatchEvent::Job(job) => phases.push(job.phase),
            WatchEvent::Metrics(metrics) => steps.push(metrics.step),
            WatchEvent::Log(line) => lines.push(line.text),
        }
    }
    phases.dedup();
    assert_eq!(phases.last(), Some(&JobPhase::Succeeded));
    assert_eq!(steps, [1, 2, 3]);
    assert_eq!(lines, ["half way"]);
    assert_eq!(client.metrics(id).await.unwrap().len(), 3);
    rig.stop().await;
}

#[tokio::test]
async fn a_submit_repeated_is_the_same_submit() {
    let rig = Rig::start().await;
    let client = rig.client();
    let spec = spec(&client, rig.folder.path(), "once").await;
    let id = submit(&client, "same", spec.clone()).await.unwrap();
    assert_eq!(submit(&client, "same", spec.clone()).await.unwrap(), id);
    let rig = rig.restart().await;
    assert_eq!(submit(&rig.client(), "same", spec.clone()).await.unwrap(), id);
    assert_eq!(submit(&rig.client(), "other", spec).await.unwrap(), JobId(id.0 + 1));
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_coordinator_restarts_in_the_middle() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let waiting = spec(&client, rig.folder.path(), "big").await;
    let id = submit(&client, "one", spec(&client, rig.folder.path(), "first").await).await.unwrap();
    agent.started().await;
    agent.report(id.0, 1, started(30)).await;
    agent.step(id.0, 1, 1, 2.0).await;
    let saved = artifact(&client, rig.folder.path(), ArtifactKind::Checkpoint, 10).await;
    agent.report(id.0, 1, checkpoint(saved.clone())).await;
    // Enough changes for a snapshot or two in between.
    for i in 0..30 {
        client.drain(&"bench-1".parse().unwrap(), i % 2 == 0).await.unwrap();
    }
    let before = client.job(id).await.unwrap();

    let rig = rig.restart().await;
    assert!(agent.next().await.is_none(), "its session has ended");
    let after = client.job(id).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(client.metrics(id).await.unwrap().len(), 1);

    // The trainer never stopped: the attempt goes on, nothing is started again.
    let mut agent =
        FakeAgent::join_with(&rig, "bench-1", "secret", GIB, &[(id.0, 1)]).await.unwrap();
    agent.hears_nothing().await;
    let second = submit(&client, "two", waiting).await.unwrap();
    assert_eq!(agent.started().await.job, second.0);
    let result = artifact(&client, rig.folder.path(), ArtifactKind::Adapter, 30).await;
    assert!(agent.report(id.0, 1, finished(result)).await.accepted);
    assert_eq!(client.job(id).await.unwrap().phase, JobPhase::Succeeded);
    rig.stop().await;
}

#[tokio::test]
async fn a_silent_agents_job_moves_on_and_its_late_words_are_refused() {
    let rig = Rig::start_with_lease(Duration::from_millis(800)).await;
    let (client, folder) = (rig.client(), rig.folder.path());
    let mut zombie = FakeAgent::join(&rig, "bench-1", GIB).await;
    let id = submit(&client, "one", spec(&client, folder, "first").await).await.unwrap();
    zombie.started().await;
    zombie.report(id.0, 1, started(30)).await;
    let saved = artifact(&client, folder, ArtifactKind::Checkpoint, 10).await;
    zombie.report(id.0, 1, checkpoint(saved.clone())).await;

    // Silent for longer than a lease, though its line is open.
    let mut heir = FakeAgent::join(&rig, "bench-2", GIB).await;
    heir.live(GIB, Duration::from_millis(1300)).await;
    let start = heir.started().await;
    assert_eq!((start.job, start.attempt), (id.0, 2));
    assert_eq!(start.checkpoint, Some(saved.into()), "it goes on from the last checkpoint");
    assert!(zombie.next().await.is_none(), "its session was ended");

    // Back from the dead: told to stop, and not listened to.
    let held = [(id.0, 1)];
    let mut zombie = FakeAgent::join_with(&rig, "bench-1", "secret", GIB, &held).await.unwrap();
    let stop = zombie.stopped().await;
    assert_eq!((stop.job, stop.attempt), (id.0, 1));
    assert_eq!(stop.reason(), v1::StopReason::Fenced);
    let stale = artifact(&client, folder, ArtifactKind::Adapter, 30).await;
    let ack = zombie.report(id.0, 1, finished(stale)).await;
    assert!(!ack.accepted && ack.reason.contains("not the live attempt"), "{ack:?}");
    zombie.log(id.0, 1, "boo").await;
    zombie.step(id.0, 1, 29, 0.0).await;
    heir.log(id.0, 2, "going on").await;
    assert!(heir.report(id.0, 2, released("asked to")).await.accepted);

    let job = client.job(id).await.unwrap();
    assert!(job.attempt >= Attempt(2) && job.phase != JobPhase::Succeeded);
    assert_eq!(job.latest, None);
    let mut log = client.logs(id, false);
    assert_eq!(log.next().await.unwrap().unwrap().text, "going on");
    assert!(log.next().await.unwrap().is_none());
    rig.stop().await;
}

#[tokio::test]
async fn a_start_that_never_arrived_is_told_again() {
    let rig = Rig::start().await;
    let client = rig.client();
    let agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let id = submit(&client, "one", spec(&client, rig.folder.path(), "first").await).await.unwrap();
    while client.job(id).await.unwrap().phase != JobPhase::Assigned {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(agent);
    let mut agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let start = agent.started().await;
    assert_eq!((start.job, start.attempt), (id.0, 1));
    rig.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_stops_and_stays_cancelled() {
    let rig = Rig::start().await;
    let (client, folder) = (rig.client(), rig.folder.path());
    let mut agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let id = submit(&client, "one", spec(&client, folder, "first").await).await.unwrap();
    agent.started().await;
    agent.report(id.0, 1, started(30)).await;
    assert_eq!(client.cancel(id).await.unwrap().phase, JobPhase::Cancelled);
    let stop = agent.stopped().await;
    assert_eq!((stop.job, stop.reason()), (id.0, v1::StopReason::Cancelled));
    // The race with its end has one winner.
    let result = artifact(&client, folder, ArtifactKind::Adapter, 30).await;
    assert!(!agent.report(id.0, 1, finished(result)).await.accepted);
    assert_eq!(client.cancel(id).await.unwrap().phase, JobPhase::Cancelled);
    rig.stop().await;
}

#[tokio::test]
async fn an_agent_is_told_who_else_has_what_its_job_reads() {
    let rig = Rig::start().await;
    let (client, folder) = (rig.client(), rig.folder.path());
    let keeper = FakeAgent::join(&rig, "keeper", GIB).await;
    client.drain(&"keeper".parse().unwrap(), true).await.unwrap();
    let spec = spec(&client, folder, "second").await;
    let data = spec.inputs[0].file.blob;
    let share = Some("desk-3:7071".to_owned());
    let offer = Offer { blobs_cached: [data].into(), share: share.clone(), ..offer(GIB) };
    let heartbeat = v1::Heartbeat { offer: Some(offer.into()), telemetry: None };
    keeper.say(v1::agent_message::Message::Heartbeat(heartbeat)).await;
    while client.overview().await.unwrap().agents[0].offer.share != share {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut reader = FakeAgent::join(&rig, "reader", GIB).await;
    submit(&client, "one", spec).await.unwrap();
    let source = v1::Source {
        agent: "keeper".into(),
        address: "desk-3:7071".into(),
        blobs: vec![data.0.to_vec()],
    };
    assert_eq!(reader.started().await.sources, [source]);
    rig.stop().await;
}
