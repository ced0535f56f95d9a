//! An agent's life with a coordinator: what it reports, what it keeps, what it survives.

#[expect(dead_code, reason = "the trainer's stories use the rest of it")]
mod fleet;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use fleet::{Agent, Fleet, artifact, job, until};
use fleetune_agent::ShareSettings;
use fleetune_proto::client::{Client, ErrorCode};
use fleetune_proto::v1::agent_message::Message as Up;
use fleetune_proto::v1::report::What;
use fleetune_proto::v1::{FailureKind, StopReason};
use fleetune_shared::{ArtifactFile, BlobHash, ByteSize, Input, InputRole};
use tonic::Status;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_fetched_trained_and_delivered() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join(
        &fleet,
        folder.path(),
        "[ $1 = trainer ] && grep -q '\"kind\": \"train\"' $2 || exit 9
        grep -q '\"memory_bytes_limit\": 1073741824' $2 || exit 9
        grep -q llama model/config.json && grep -q prompt data/a.jsonl || exit 9
        echo careful >&2; started; step 1; checkpoint 5; finished",
    );
    let hello = fleet.hello().await;
    assert_eq!((hello.name.as_str(), hello.key.len(), hello.held.len()), ("bench-1", 36, 0));
    let card = hello.offer.unwrap().card.unwrap();
    assert_eq!((card.name.as_str(), card.vram_bytes_total), ("RTX 3080", 10 << 30));

    fleet.start_job(7, 1, job(&fleet), None);
    let (mut log, mut losses, mut checkpoints) = (Vec::new(), Vec::new(), Vec::new());
    let finished = fleet
        .next("finish", |message| match message {
            Up::Log(line) => {
                assert_eq!((line.job, line.attempt), (7, 1));
                log.push(line.text);
                None
            }
            Up::Metrics(metrics) => {
                losses.push(metrics.metrics.unwrap().loss);
                None
            }
            Up::Report(report) => match report.what.unwrap() {
                What::Checkpoint(checkpoint) => {
                    checkpoints.push(checkpoint);
                    None
                }
                What::Finished(finished) => Some(finished),
                What::Started(_) => None,
                other => panic!("{other:?}"),
            },
            _ => None,
        })
        .await;
    assert_eq!(log.iter().filter(|line| *line == "careful").count(), 1, "{log:?}");
    assert_eq!(losses, [1.5]);
    if let [checkpoint] = &checkpoints[..] {
        assert_eq!(fleet.read(checkpoint, "state"), "state 5\n");
    }
    let adapter = finished.artifact.unwrap();
    let names: Vec<_> = adapter.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    assert_eq!(fleet.read(&adapter, "adapter_model.safetensors"), "weights\n");
    assert_eq!(finished.summary.unwrap().steps, 9);
    until("the attempt's folder is gone", || !agent.attempt("7-1").exists()).await;
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_from_its_checkpoint_and_its_inputs_are_not_fetched_twice() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "grep -q '\"resume_from\": \".*/checkpoint\"' $2 || finished
        grep -q 'state 4' checkpoint/state || failed input 'no checkpoint'
        finished";
    let agent = Agent::join(&fleet, folder.path(), trainer);
    fleet.hello().await;
    let spec = job(&fleet);
    fleet.start_job(1, 1, spec.clone(), None);
    assert!(matches!(fleet.report().await.1, What::Finished(_)));
    for input in &spec.inputs {
        fleet.corrupt(input.file.blob);
    }
    fleet.start_job(1, 2, spec, Some(artifact(&fleet, "state", "state 4")));
    assert!(matches!(fleet.report().await.1, What::Finished(_)));
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_damaged_at_rest_is_fetched_anew_and_one_damaged_on_its_way_is_refused() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "grep -q llama model/config.json && finished";
    let agent = Agent::join(&fleet, folder.path(), trainer);
    fleet.hello().await;
    let spec = job(&fleet);
    let blob = spec.inputs[0].file.blob.to_string();
    let kept = agent.data_dir.join("blobs").join(&blob[..2]).join(&blob);
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(kept, "rotten").unwrap();
    fleet.start_job(1, 1, spec.clone(), None);
    assert!(matches!(fleet.report().await.1, What::Finished(_)));

    let mut other = spec;
    other.inputs = vec![Input { role: InputRole::Model, ..other.inputs[0].clone() }];
    other.inputs[0].file.blob = fleet.store(b"something else");
    other.inputs[0].file.bytes = fleetune_shared::ByteSize(14);
    fleet.corrupt(other.inputs[0].file.blob);
    fleet.start_job(2, 1, other, None);
    let What::Failed(failed) = fleet.report().await.1 else { panic!() };
    assert_eq!(failed.kind(), FailureKind::Machine);
    assert!(failed.message.contains("config.json"), "{}", failed.message);
    agent.shut_down().await.unwrap();
}

/// A model's file that is large enough to be told of.
fn weights(fleet: &Fleet) -> Input {
    let bytes: Vec<u8> = (0..17_u32 << 20).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect();
    let (name, bytes_in_all) = ("model.safetensors".to_owned(), ByteSize(bytes.len() as u64));
    let name = name.try_into().unwrap();
    let file = ArtifactFile { name, blob: fleet.store(&bytes), bytes: bytes_in_all };
    Input { role: InputRole::Model, file }
}

/// The blob as an agent keeps it.
fn kept(agent: &Agent, blob: BlobHash) -> PathBuf {
    let name = blob.to_string();
    agent.data_dir.join("blobs").join(&name[..2]).join(&name)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_hands_out_what_it_keeps_and_nothing_else() {
    let (mut there, mut here, folder) = (Fleet::start(), Fleet::start(), folder());
    for name in ["1", "2", "3"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let keeper = Agent::join_with(&there, &folder.path().join("2"), "finished", |settings| {
        let listen = "127.0.0.1:0".parse().unwrap();
        settings.share = Some(ShareSettings { listen, dialled: None });
    });
    let address = there.hello().await.offer.unwrap().share.unwrap();
    let input = weights(&there);
    let blob = input.file.blob;
    let mut spec = job(&there);
    spec.inputs.push(input);
    there.start_job(1, 1, spec.clone(), None);
    assert!(matches!(there.report().await.1, What::Finished(_)));
    assert_eq!(there.given(blob), 17 << 20);

    // Another agent, whose coordinator has only the small files, and an outline.
    let reader = Agent::join(&here, &folder.path().join("1"), "finished");
    assert_eq!(here.hello().await.offer.unwrap().share, None);
    job(&here);
    assert_eq!(weights(&here).file.blob, blob);
    here.recommend(&address, &[blob]);
    here.start_job(1, 1, spec.clone(), None);
    let line = here
        .next("word of the model", |message| match message {
            Up::Log(log) if log.text.starts_with("model.safetensors") => Some(log.text),
            _ => None,
        })
        .await;
    assert_eq!(line, "model.safetensors: 17.0 MiB from agent bench-2");
    assert!(matches!(here.report().await.1, What::Finished(_)));
    assert_eq!(here.given(blob), 0);
    reader.shut_down().await.unwrap();

    // What rots is handed out no more, and comes from the coordinator.
    let path = kept(&keeper, blob);
    let mut bytes = fs::read(&path).unwrap();
    bytes[9 << 20] ^= 1;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, bytes).unwrap();
    let reader = Agent::join(&here, &folder.path().join("3"), "finished");
    here.hello().await;
    here.start_job(2, 1, spec, None);
    assert!(matches!(here.report().await.1, What::Finished(_)));
    assert_eq!(here.given(blob), 8 << 20, "what came before the damage is kept");
    assert!(!path.exists());
    reader.shut_down().await.unwrap();

    let client = Client::connect(&address).unwrap();
    assert_eq!(client.stat(&[blob]).await.unwrap(), [Some(0)]);
    let unknown = BlobHash([7; 32]);
    let nothing = folder.path().join("nothing");
    let error = client.download(unknown, ByteSize(9), &nothing, |_, _| {}).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound, "{error}");
    fs::write(&nothing, "an upload").unwrap();
    let error = client.upload_file(&nothing, |_, _| {}).await.unwrap_err();
    assert!(error.message.contains("takes no uploads"), "{error}");
    keeper.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn training_goes_on_while_the_coordinator_is_away() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join(
        &fleet,
        folder.path(),
        "started; step 1; touch out/.ready
        while [ ! -e out/.go ]; do sleep 0.01; done
        step 2; checkpoint 2; step 3; finished; touch ../done",
    );
    let hello = fleet.hello().await;
    fleet.start_job(3, 1, job(&fleet), None);
    let attempt = agent.attempt("3-1");
    until("the trainer is up", || attempt.join("out/.ready").exists()).await;
    fleet.next("step 1", |m| matches!(m, Up::Metrics(_)).then_some(())).await;
    fleet.down();
    fs::write(attempt.join("out/.go"), "").unwrap();
    until("the result is marked", || attempt.join("result.json").exists()).await;
    assert!(attempt.join("out/adapter_model.safetensors").exists());

    fleet.up();
    let again = fleet.hello().await;
    assert_eq!(again.key, hello.key);
    assert_eq!((again.held[0].job, again.held[0].attempt), (3, 1));
    let mut steps = Vec::new();
    let finished = fleet
        .next("finish", |message| match message {
            Up::Metrics(metrics) => {
                steps.push(metrics.metrics.unwrap().step);
                None
            }
            Up::Report(report) => match report.what.unwrap() {
                What::Finished(finished) => Some(finished),
                _ => None,
            },
            _ => None,
        })
        .await;
    steps.dedup();
    assert!(steps.ends_with(&[2, 3]), "{steps:?}");
    assert_eq!(fleet.read(&finished.artifact.unwrap(), "adapter_model.safetensors"), "weights\n");
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_not_acknowledged_is_sent_again_with_its_number() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join(&fleet, folder.path(), "finished");
    fleet.hello().await;
    fleet.hold_acks(true);
    fleet.start_job(3, 1, job(&fleet), None);
    let (sequence, what) = fleet.report().await;
    assert!(matches!(what, What::Finished(_)));
    fleet.down();
    fleet.up();
    fleet.hello().await;
    assert_eq!(fleet.report().await, (sequence, what));
    assert!(agent.attempt("3-1").exists());
    fleet.ack(sequence);
    until("the attempt's folder is gone", || !agent.attempt("3-1").exists()).await;
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_outlives_the_agent_and_nothing_else_does() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "grep -q '\"name\": \"endless\"' $2 && { started; exec sleep 60; }; finished";
    let agent = Agent::join(&fleet, folder.path(), trainer);
    let key = fleet.hello().await.key;
    fleet.hold_acks(true);
    fleet.start_job(1, 1, job(&fleet), None);
    let (first, _) = fleet.report().await;
    let mut endless = job(&fleet);
    endless.work = fleetune_shared::Work::Train {
        recipe: Box::new(
            fleetune_shared::Recipe::read(
                "name: endless\nmodel_name_or_path: base\ndataset_name: a.jsonl",
            )
            .unwrap(),
        ),
    };
    fleet.start_job(2, 1, endless, None);
    fleet.next("start", |m| matches!(m, Up::Report(_)).then_some(())).await;
    let attempts = agent.data_dir.join("attempts");
    agent.die().await;

    let agent = Agent::join(&fleet, folder.path(), trainer);
    let hello = fleet.hello().await;
    assert_eq!(hello.key, key);
    let held: Vec<_> = hello.held.iter().map(|held| (held.job, held.attempt)).collect();
    assert_eq!(held, [(1, 1)]);
    assert!(!attempts.join("2-1").exists());
    let (second, what) = fleet.report().await;
    assert!(matches!(what, What::Finished(_)));
    assert!(second > first);
    fleet.ack(second);
    until("the attempt's folder is gone", || !attempts.join("1-1").exists()).await;
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_attempt_ends_at_once_and_says_nothing_more() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join(&fleet, folder.path(), "echo $$ > ../pid; started; exec sleep 60");
    fleet.hello().await;
    fleet.start_job(4, 1, job(&fleet), None);
    fleet.next("start", |m| matches!(m, Up::Report(_)).then_some(())).await;
    let pid = fs::read_to_string(agent.data_dir.join("attempts/pid")).unwrap();
    fleet.stop_job(4, 1, StopReason::Cancelled);
    until("the folder is gone", || !agent.attempt("4-1").exists()).await;
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap());
    assert_eq!(fleet.reports_within(Duration::from_millis(300)).await, []);
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_yields_uploads_a_checkpoint_before_it_is_released() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "started; read word; [ $word = stop ] && checkpoint 8; exit 3";
    let agent = Agent::join(&fleet, folder.path(), trainer);
    fleet.hello().await;
    fleet.start_job(5, 2, job(&fleet), None);
    fleet.next("start", |m| matches!(m, Up::Report(_)).then_some(())).await;
    fleet.stop_job(5, 2, StopReason::Yield);
    let What::Checkpoint(checkpoint) = fleet.report().await.1 else { panic!() };
    assert_eq!((checkpoint.step, fleet.read(&checkpoint, "state").as_str()), (8, "state 8\n"));
    let What::Released(released) = fleet.report().await.1 else { panic!() };
    assert_eq!(released.message, "wanted elsewhere");
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_will_not_stop_is_killed_within_the_grace() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "started; checkpoint 1; exec sleep 60";
    let agent = Agent::join_with(&fleet, folder.path(), trainer, |settings| {
        settings.stop_grace = Duration::from_millis(200);
    });
    fleet.hello().await;
    fleet.start_job(5, 1, job(&fleet), None);
    assert!(matches!(fleet.report().await.1, What::Checkpoint(_)));
    fleet.stop_job(5, 1, StopReason::Yield);
    assert!(matches!(fleet.report().await.1, What::Released(_)));
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_report_is_refused_ends() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "started; checkpoint 1; exec sleep 60";
    let agent = Agent::join(&fleet, folder.path(), trainer);
    fleet.hello().await;
    fleet.fence(6, 1);
    fleet.start_job(6, 1, job(&fleet), None);
    fleet.next("start", |m| matches!(m, Up::Report(_)).then_some(())).await;
    until("the folder is gone", || !agent.attempt("6-1").exists()).await;
    let said = fleet.reports_within(Duration::from_millis(300)).await;
    // One last word, in case it was not fenced but refused for another reason.
    let failed = said.iter().filter(|what| matches!(what, What::Failed(_))).count();
    assert_eq!(failed, 1, "{said:?}");
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_attempt_waits_until_the_old_trainer_is_gone() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "echo $$ > ../pid; started; exec sleep 60";
    let agent = Agent::join(&fleet, folder.path(), trainer);
    fleet.hello().await;
    fleet.start_job(6, 1, job(&fleet), None);
    fleet.next("start", |m| matches!(m, Up::Report(_)).then_some(())).await;
    let pid = fs::read_to_string(agent.data_dir.join("attempts/pid")).unwrap();
    fleet.start_job(6, 2, job(&fleet), None);
    until("the second is at work", || agent.attempt("6-2/order.json").exists()).await;
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap());
    agent.die().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_is_killed_fails_as_the_machines_fault() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join(&fleet, folder.path(), "started; echo last words >&2; kill -9 $$");
    fleet.hello().await;
    fleet.start_job(8, 1, job(&fleet), None);
    let What::Failed(failed) = fleet.report().await.1 else { panic!() };
    assert_eq!(failed.kind(), FailureKind::Machine);
    assert_eq!(failed.message, "the trainer was ended by SIGKILL; it said last:\nlast words");
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_passed_on_in_the_trainers_words() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join(&fleet, folder.path(), "failed input 'a.jsonl: row 1: no column'");
    fleet.hello().await;
    fleet.start_job(8, 1, job(&fleet), None);
    let What::Failed(failed) = fleet.report().await.1 else { panic!() };
    assert_eq!(failed.kind(), FailureKind::Input);
    assert_eq!(failed.message, "a.jsonl: row 1: no column");
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_says_nothing_hangs() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "started; while :; do echo busy >&2; sleep 0.05; done";
    let agent = Agent::join_with(&fleet, folder.path(), trainer, |settings| {
        settings.silence_max = Duration::from_millis(500);
    });
    fleet.hello().await;
    fleet.start_job(9, 1, job(&fleet), None);
    let What::Failed(failed) = fleet.report().await.1 else { panic!() };
    assert_eq!(failed.kind(), FailureKind::Hung);
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_shuts_down_gives_its_jobs_back() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let trainer = "started; read word; checkpoint 2; exit 3";
    let agent = Agent::join(&fleet, folder.path(), trainer);
    fleet.hello().await;
    fleet.start_job(1, 1, job(&fleet), None);
    fleet.start_job(2, 1, job(&fleet), None);
    for _ in 0..2 {
        fleet.next("start", |m| matches!(m, Up::Report(_)).then_some(())).await;
    }
    agent.shut_down().await.unwrap();
    let said = fleet.reports_within(Duration::from_millis(300)).await;
    let released = said.iter().filter(|what| matches!(what, What::Released(_))).count();
    let checkpoints = said.iter().filter(|what| matches!(what, What::Checkpoint(_))).count();
    assert_eq!((released, checkpoints), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_coordinator_still_ends_when_asked() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join(&fleet, folder.path(), "started; read word; checkpoint 2; exit 3");
    fleet.hello().await;
    fleet.start_job(1, 1, job(&fleet), None);
    fleet.next("start", |m| matches!(m, Up::Report(_)).then_some(())).await;
    fleet.down();
    agent.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_belongs_to_another_is_refused_for_good() {
    let (fleet, folder) = (Fleet::start(), folder());
    fleet.refuse(Status::already_exists(
        "`bench-1` belongs to another agent; choose another --name",
    ));
    let agent = Agent::join(&fleet, folder.path(), "finished");
    let error = agent.ended().await.unwrap_err().to_string();
    assert!(
        error.ends_with("`bench-1` belongs to another agent; choose another --name"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_fails_the_attempt() {
    let (mut fleet, folder) = (Fleet::start(), folder());
    let agent = Agent::join_with(&fleet, folder.path(), "", |settings| {
        settings.program = "/nowhere/fleetune".into();
    });
    fleet.hello().await;
    fleet.start_job(1, 1, job(&fleet), None);
    let What::Failed(failed) = fleet.report().await.1 else { panic!() };
    assert!(failed.message.starts_with("starting /nowhere/fleetune: "), "{}", failed.message);
    agent.shut_down().await.unwrap();
}
