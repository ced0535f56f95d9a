//! What is not done, and how it is said.

use std::time::Duration;

use fleetune_coordinator::{Settings, serve};
use fleetune_proto::ErrorCode;
use fleetune_proto::client::Outcome;
use fleetune_proto::v1::report::What;
use fleetune_proto::v1::{self, agents_client::AgentsClient, fleet_client::FleetClient};
use fleetune_shared::view::JobPhase;
use fleetune_shared::{ArtifactKind, BlobHash, ByteSize, JobId, RequestId};
use tonic::Code;

use crate::agent::{FakeAgent, checkpoint, finished, started};
use crate::rig::{GIB, Rig, artifact, spec, submit};

#[tokio::test]
async fn a_job_that_fits_nowhere_is_answered_with_the_numbers() {
    let rig = Rig::start().await;
    let client = rig.client();
    let _agent = FakeAgent::join(&rig, "tiny", ByteSize(8 << 20)).await;
    let spec = spec(&client, rig.folder.path(), "big").await;
    let outcomes = client.submit(&RequestId("one".into()), &[spec]).await.unwrap();
    let [Outcome::Refused(why)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(why.summary.contains("`tiny`"), "{}", why.summary);
    assert!(why.cards[0].vram_bytes_needed > ByteSize(8 << 20), "sized by the coordinator");
    assert!(client.overview().await.unwrap().jobs.is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn a_submit_that_makes_no_sense_says_what_and_where() {
    let rig = Rig::start().await;
    let client = rig.client();
    let good = spec(&client, rig.folder.path(), "good").await;

    let mut absent = good.clone();
    absent.inputs[0].file.blob = BlobHash([7; 32]);
    let mut longer = good.clone();
    longer.inputs[0].file.bytes.0 += 1;
    let mut twice = good.clone();
    twice.inputs.push(twice.inputs[0].clone());
    let cases = [
        (absent, ErrorCode::Refused, "`rows.jsonl` (blob 070707070707) is not uploaded"),
        (longer, ErrorCode::Invalid, "`rows.jsonl` is said to have"),
        (twice, ErrorCode::Invalid, "two input files named `rows.jsonl`"),
    ];
    for (spec, code, part) in cases {
        let error = submit(&client, "bad", spec).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{error}");
    }

    let mut raw = FleetClient::new(client.channel());
    let mut wire: v1::JobSpec = good.clone().into();
    wire.work = Some(v1::job_spec::Work::RecipeJson(
        r#"{"model_name_or_path":"m","dataset_name":"d","learning_rate":0}"#.into(),
    ));
    let request =
        |request_id: &str, specs| v1::SubmitRequest { request_id: request_id.into(), specs };
    let status = raw.submit(request("bad", vec![wire.clone()])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`learning_rate` is 0"), "{status}");
    wire.work = Some(v1::job_spec::Work::RecipeJson(
        r#"{"model_name_or_path":"m","dataset_name":"d","r":65}"#.into(),
    ));
    let status = raw.submit(request("bad", vec![wire.clone()])).await.unwrap_err();
    assert!(status.message().contains("hidden_size, 64"), "{status}");
    let status = raw.submit(request("", vec![good.clone().into()])).await.unwrap_err();
    assert!(status.message().contains("request id"), "{status}");
    let status = raw.submit(request("bad", vec![good.into(); 1001])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(client.overview().await.unwrap().jobs.is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let rig = Rig::start().await;
    let client = rig.client();
    let job = JobId(99);
    let errors = [
        client.job(job).await.unwrap_err(),
        client.cancel(job).await.unwrap_err(),
        client.metrics(job).await.unwrap_err(),
        client.watch(job, false).next().await.unwrap_err(),
        client.drain(&"nobody".parse().unwrap(), true).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.code, ErrorCode::NotFound, "{error}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_checkpoint_is_not_believed_before_its_blobs_are_here() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let id = submit(&client, "one", spec(&client, rig.folder.path(), "first").await).await.unwrap();
    agent.started().await;
    agent.report(id.0, 1, started(30)).await;
    let mut missing = artifact(&client, rig.folder.path(), ArtifactKind::Checkpoint, 10).await;
    missing.files[0].blob = BlobHash([9; 32]);
    let ack = agent.report(id.0, 1, checkpoint(missing)).await;
    assert!(!ack.accepted && ack.reason.contains("is not uploaded"), "{ack:?}");
    assert_eq!(client.job(id).await.unwrap().checkpoint_step, None);
    rig.stop().await;
}

#[tokio::test]
async fn a_number_that_the_log_cannot_hold_never_reaches_it() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let id = submit(&client, "one", spec(&client, rig.folder.path(), "first").await).await.unwrap();
    agent.started().await;
    let result = artifact(&client, rig.folder.path(), ArtifactKind::Adapter, 30).await;
    let What::Finished(mut done) = finished(result.clone()) else { unreachable!() };
    done.summary.as_mut().unwrap().loss_last = f64::NAN;
    let ack = agent.report(id.0, 1, What::Finished(done)).await;
    assert!(!ack.accepted && ack.reason.contains("cannot be written down"), "{ack:?}");
    assert!(agent.report(id.0, 1, finished(result)).await.accepted);
    let rig = rig.restart().await;
    assert_eq!(client.job(id).await.unwrap().phase, JobPhase::Succeeded);
    rig.stop().await;
}

#[tokio::test]
async fn an_agents_name_is_its_own() {
    let rig = Rig::start().await;
    let mut agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let Err(status) = FakeAgent::join_with(&rig, "bench-1", "other", GIB, &[]).await else {
        panic!("a stranger took the name")
    };
    assert_eq!(status.code(), Code::AlreadyExists);
    agent.hears_nothing().await;
    // Its owner, from a new connection, ends the older session.
    let _again = FakeAgent::join(&rig, "bench-1", GIB).await;
    assert!(agent.next().await.is_none());

    let mut raw = AgentsClient::new(rig.client().channel());
    let beat = v1::AgentMessage {
        message: Some(v1::agent_message::Message::Heartbeat(v1::Heartbeat {
            offer: None,
            telemetry: None,
        })),
    };
    let status = raw.session(tokio_stream::iter([beat])).await.unwrap_err();
    assert!(status.message().contains("begins with a hello"), "{status}");
    rig.stop().await;
}

#[tokio::test]
async fn a_folder_has_one_coordinator_and_a_port_one_listener() {
    let rig = Rig::start().await;
    let never = || std::future::pending::<()>();
    let again = Settings { listen: "127.0.0.1:0".parse().unwrap(), ..rig.settings() };
    let error = serve(again, |_| {}, never()).await.unwrap_err();
    assert!(error.to_string().contains("another coordinator runs in"), "{error}");
    let other = tempfile::TempDir::new().unwrap();
    let error =
        serve(Settings { listen: rig.address, ..Settings::new(other.path()) }, |_| {}, never())
            .await
            .unwrap_err();
    assert!(error.to_string().contains("cannot listen on"), "{error}");
    let hasty = Settings { lease: Duration::from_secs(2), ..Settings::new(other.path()) };
    let error = serve(hasty, |_| {}, never()).await.unwrap_err();
    assert!(error.to_string().contains("at least three heartbeats"), "{error}");
    rig.stop().await;
}

#[tokio::test]
async fn watchers_do_not_hold_up_the_end() {
    let rig = Rig::start().await;
    let client = rig.client();
    let id = submit(&client, "one", spec(&client, rig.folder.path(), "first").await).await.unwrap();
    let _agent = FakeAgent::join(&rig, "bench-1", GIB).await;
    let mut watch = client.watch(id, true);
    watch.next().await.unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    tokio::time::timeout(Duration::from_secs(2), rig.stop()).await.expect("a prompt stop");
    waiting.abort();
}
