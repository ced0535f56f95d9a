//! Real training through agent and trainer, interrupted in every way: this program is the trainer, and once the agent,
//! of its own stories.

#[expect(dead_code, reason = "the session's stories use the rest of it")]
mod fleet;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use fleet::{Agent, Fleet, job, until};
use fleetune_agent::{CardSettings, DeviceChoice, Settings, run, run_child};
use fleetune_engine::memory::Meter;
use fleetune_proto::v1::agent_message::Message as Up;
use fleetune_proto::v1::report::What;
use fleetune_proto::v1::{self, FailureKind, StopReason};
use fleetune_shared::{
    ArtifactFile, ByteSize, FileName, Input, InputRole, JobSpec, Recipe, TrainerEvent, Work,
};
use serde_json::json;

#[global_allocator]
static METER: Meter = Meter;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["trainer", order] => return run_child(Path::new(order)),
        ["agent", url, data_dir] => {
            let mut settings = settings(url, Path::new(data_dir));
            settings.card = declared();
            return if Box::pin(run(settings, std::future::pending())).await.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        _ => {}
    }
    macro_rules! tell {
        ($($story:ident),+ $(,)?) => {$(
            let begun = Instant::now();
            Box::pin($story()).await;
            eprintln!("story {} ... ok, {:.1?}", stringify!($story), begun.elapsed());
        )+};
    }
    tell!(
        an_order_that_cannot_be_carried_out_is_a_word_and_a_status,
        a_run_that_is_killed_and_one_that_yields_end_as_if_nothing_had_been,
        a_run_beyond_its_card_is_out_of_memory,
        a_mistake_in_the_data_is_the_users,
        a_trainer_ends_with_its_agent,
    );
    ExitCode::SUCCESS
}

fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn declared() -> CardSettings {
    let vram = Some(ByteSize(1 << 30));
    CardSettings { device: DeviceChoice::Cpu, vram, ..CardSettings::default() }
}

fn settings(url: &str, data_dir: &Path) -> Settings {
    Settings::new("bench-1".parse().unwrap(), url.into(), data_dir.into()).unwrap()
}

/// Tiny Llama on twenty tokenised rows, long enough to be interrupted.
fn training(fleet: &Fleet, keys: serde_json::Value) -> JobSpec {
    let fixtures: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures"].iter().collect();
    let input = |role, path: &str| {
        let path = fixtures.join(path);
        let content = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let name = FileName::try_from(name).unwrap();
        let bytes = ByteSize(content.len() as u64);
        Input { role, file: ArtifactFile { name, blob: fleet.store(&content), bytes } }
    };
    let model = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let model = model.map(|name| format!("models/tiny-llama/{name}"));
    let mut inputs: Vec<_> = model.iter().map(|path| input(InputRole::Model, path)).collect();
    inputs.push(input(InputRole::Data, "train/tiny-llama/rows.jsonl"));
    let mut recipe = json!({
        "model_name_or_path": "base",
        "dataset_name": "rows.jsonl",
        "dataset_format": "tokenized",
        "max_length": 512,
        "r": 4,
        "max_steps": 120,
        "save_steps": 20,
    });
    recipe.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let recipe = Box::new(Recipe::read(&recipe.to_string()).unwrap());
    JobSpec { work: Work::Train { recipe }, inputs, ..job(fleet) }
}

fn adapter(fleet: &Fleet, finished: v1::Finished) -> Vec<u8> {
    fleet.bytes(&finished.artifact.unwrap(), "adapter_model.safetensors")
}

async fn an_order_that_cannot_be_carried_out_is_a_word_and_a_status() {
    let folder = tempfile::tempdir().unwrap();
    let order = folder.path().join("order.json");
    let tell = || {
        let output = Command::new(this_program()).arg("trainer").arg(&order).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        match serde_json::from_slice(&output.stdout).unwrap() {
            TrainerEvent::Failed { message, .. } => message,
            other => panic!("{other:?}"),
        }
    };
    assert!(tell().contains("order.json: No such file"));
    let merge = json!({"kind": "merge", "model": "m", "adapter": "a", "out": "o"});
    let text = json!({"agent_pid": 1, "memory_bytes_limit": 1, "work": merge});
    fs::write(&order, text.to_string()).unwrap();
    assert_eq!(tell(), "process 1, which started this one, is gone");
}

async fn a_run_that_is_killed_and_one_that_yields_end_as_if_nothing_had_been() {
    let (mut fleet, folder) = (Fleet::start(), tempfile::tempdir().unwrap());
    let agent = Agent::join_with(&fleet, folder.path(), "", |s| s.program = this_program());
    fleet.hello().await;
    let spec = training(&fleet, json!({}));

    fleet.start_job(1, 1, spec.clone(), None);
    let whole = loop {
        match fleet.report().await.1 {
            What::Checkpoint(_) => {}
            What::Finished(finished) => break finished,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(whole.summary.as_ref().unwrap().steps, 120);
    let whole = adapter(&fleet, whole);

    // Killed after its first checkpoint.
    fleet.start_job(2, 1, spec.clone(), None);
    let What::Checkpoint(mut checkpoint) = fleet.report().await.1 else { panic!() };
    let pid = fs::read_to_string(agent.attempt("2-1").join("trainer.pid")).unwrap();
    let pid = pid.split(' ').next().unwrap();
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    loop {
        match fleet.report().await.1 {
            What::Checkpoint(newer) => checkpoint = newer,
            What::Failed(failed) => break assert_eq!(failed.kind(), FailureKind::Machine),
            other => panic!("{other:?}"),
        }
    }
    // Asked to yield after another.
    fleet.start_job(2, 2, spec.clone(), Some(checkpoint.clone()));
    let first = fleet.next("step", |m| if let Up::Metrics(m) = m { m.metrics } else { None }).await;
    assert_eq!(first.step, checkpoint.step + 1);
    fleet.stop_job(2, 2, StopReason::Yield);
    loop {
        match fleet.report().await.1 {
            What::Checkpoint(newer) => checkpoint = newer,
            What::Released(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(checkpoint.step < 120);
    fleet.start_job(2, 3, spec, Some(checkpoint));
    let resumed = loop {
        match fleet.report().await.1 {
            What::Checkpoint(_) => {}
            What::Finished(finished) => break adapter(&fleet, finished),
            other => panic!("{other:?}"),
        }
    };
    assert!(whole == resumed, "interrupted training is not uninterrupted training");
    agent.shut_down().await.unwrap();
}

async fn a_run_beyond_its_card_is_out_of_memory() {
    let (mut fleet, folder) = (Fleet::start(), tempfile::tempdir().unwrap());
    let agent = Agent::join_with(&fleet, folder.path(), "", |s| s.program = this_program());
    fleet.hello().await;
    fleet.limit(1 << 20);
    fleet.start_job(1, 1, training(&fleet, json!({})), None);
    let What::Failed(failed) = fleet.report().await.1 else { panic!() };
    assert_eq!(failed.kind(), FailureKind::OutOfMemory, "{}", failed.message);
    assert!(failed.message.contains("1.0 MiB"), "{}", failed.message);
    agent.shut_down().await.unwrap();
}

async fn a_mistake_in_the_data_is_the_users() {
    let (mut fleet, folder) = (Fleet::start(), tempfile::tempdir().unwrap());
    let agent = Agent::join_with(&fleet, folder.path(), "", |s| s.program = this_program());
    fleet.hello().await;
    let spec = training(&fleet, json!({"dataset_format": "alpaca"}));
    fleet.start_job(1, 1, spec, None);
    let What::Failed(failed) = fleet.report().await.1 else { panic!() };
    assert_eq!(failed.kind(), FailureKind::Input, "{}", failed.message);
    assert!(failed.message.contains("rows.jsonl"), "{}", failed.message);
    agent.shut_down().await.unwrap();
}

async fn a_trainer_ends_with_its_agent() {
    let (mut fleet, folder) = (Fleet::start(), tempfile::tempdir().unwrap());
    let data_dir = folder.path().join("agent");
    let mut agent = Command::new(this_program());
    let mut agent = agent.args(["agent", &fleet.url()]).arg(&data_dir).spawn().unwrap();
    fleet.hello().await;
    fleet.start_job(1, 1, training(&fleet, json!({"max_steps": 100_000})), None);
    fleet.next("step", |m| matches!(m, Up::Metrics(_)).then_some(())).await;
    let pid = fs::read_to_string(data_dir.join("attempts/1-1/trainer.pid")).unwrap();
    let process = Path::new("/proc").join(pid.split(' ').next().unwrap());
    assert!(process.exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
    let gone = || {
        // Nobody may be there to bury it.
        let state = fs::read_to_string(process.join("stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    };
    until("the trainer is gone", gone).await;

    let again = Agent::join_with(&fleet, folder.path(), "", |_| {});
    assert_eq!(fleet.hello().await.held, []);
    assert!(!data_dir.join("attempts/1-1").exists());
    again.shut_down().await.unwrap();
}
