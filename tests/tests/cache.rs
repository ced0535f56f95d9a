//! Base models as agents keep them, with real processes: who sends them, what a cut leaves, what makes room, what rots.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleetune_tests::{Sandbox, demo_asset, free_address, slow_line};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fleetune-under-test");
const LIMIT: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;
/// What makes a model's file so large that its agent tells of it.
const PADDING: usize = 18 << 20;
/// A transfer of some seconds.
const SLOW: u32 = 6 << 20;

/// The demo's model under another name, its file as large as `PADDING` makes it.
fn model(sandbox: &Sandbox, name: &str) -> PathBuf {
    let folder = sandbox.folder().join(name);
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(demo_asset("model")).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join("model.safetensors");
    let file = fs::read(&path).unwrap();
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let digit = |i: usize| char::from(b'a' + ((i * 7 + i / 1013 + name.len()) % 26) as u8);
    header["__metadata__"] = json!({ "padding": (0..PADDING).map(digit).collect::<String>() });
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&length[..], &header, data].concat()).unwrap();
    folder
}

/// A job of a few steps on it.
fn recipe(sandbox: &Sandbox, model: &Path) -> PathBuf {
    let path = model.with_extension("yaml");
    let text = format!(
        "name: short\nmodel_name_or_path: {}\ndataset_name: {}\nr: 4\nmax_steps: 2\nmax_length: 64\n\
         per_device_train_batch_size: 4\nlearning_rate: 3e-3\n",
        model.display(),
        demo_asset("data.jsonl").display()
    );
    assert!(path.starts_with(sandbox.folder()));
    fs::write(&path, text).unwrap();
    path
}

/// The largest file below a folder whose name ends so: the model's blob, or what there is of it.
fn largest(folder: &Path, suffix: &str) -> Option<PathBuf> {
    let shelves = fs::read_dir(folder.join("blobs")).ok()?.flatten();
    let files =
        shelves.flat_map(|shelf| fs::read_dir(shelf.path()).into_iter().flatten().flatten());
    let paths = files.map(|file| file.path());
    let named = paths.filter(|path| path.to_string_lossy().ends_with(suffix));
    named.max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
}

/// A fleet of `one`, which has run a job on a model, and a second such job, which waits for another agent.
struct Story {
    sandbox: Sandbox,
    job: u64,
}

impl Story {
    /// `one` shares at an address that others dial as `dialled` makes of it.
    fn begin(dialled: impl FnOnce(&str) -> String) -> Self {
        let mut sandbox = Sandbox::new(PROGRAM);
        let share = free_address();
        let share_as = dialled(&share);
        start(&mut sandbox, "one", &["--share", &share, "--share-as", &share_as]);
        let model = model(&sandbox, "base");
        let recipe = recipe(&sandbox, &model);
        let first = sandbox.submit(&recipe);
        succeeds(&sandbox, first, "one");
        let line = told(&sandbox, first);
        assert!(line.ends_with("MiB from the coordinator") && !line.contains(','), "{line}");
        let told = |s: &Sandbox| (caches(s, "one")? == 1).then_some(());
        sandbox.wait_for("the coordinator to hear of the blob", LIMIT, told);
        assert!(sandbox.cli(&["agent", "drain", "one"]).status.success());
        let job = sandbox.submit(&recipe);
        Self { sandbox, job }
    }

    fn coordinators_blob(&self) -> PathBuf {
        largest(&self.sandbox.folder().join("coordinator"), "").unwrap()
    }

    /// `two` has some MiB of the model.
    fn two_is_fetching(&self) {
        let folder = self.sandbox.folder().join("two");
        self.sandbox.wait_for("a part of the model", LIMIT, |_| {
            let partial = largest(&folder, ".partial")?;
            (fs::metadata(partial).ok()?.blocks() * 512 >= 5 * MIB).then_some(())
        });
    }
}

fn start(sandbox: &mut Sandbox, name: &str, options: &[&str]) {
    let options = [&["--vram", "2GiB", "--card", "Test card"], options].concat();
    sandbox.start_agent_with(name, &options, &[]);
}

fn succeeds(sandbox: &Sandbox, job: u64, agent: &str) {
    let ended = sandbox.wait_job(job, LIMIT);
    assert_eq!(
        (&ended["phase"], &ended["agent"]),
        (&"succeeded".into(), &agent.into()),
        "{ended:#}"
    );
    // Its folder holds the model until it is gone.
    let attempts = sandbox.folder().join(agent).join("attempts");
    let gone = |_: &Sandbox| (fs::read_dir(&attempts).ok()?.count() == 0).then_some(());
    sandbox.wait_for("the attempt's folder to go", LIMIT, gone);
}

/// Large blobs that an agent has told of.
fn caches(sandbox: &Sandbox, agent: &str) -> Option<usize> {
    let agents = sandbox.json(&["agents"])?;
    let agent = agents.as_array()?.iter().find(|a| a["name"] == agent)?.clone();
    Some(agent["offer"]["blobs_cached"].as_array()?.len())
}

fn logs(sandbox: &Sandbox, job: u64) -> String {
    let output = sandbox.cli(&["job", "logs", &job.to_string()]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a job's log says last of where its model came from.
fn told(sandbox: &Sandbox, job: u64) -> String {
    let logs = logs(sandbox, job);
    let mut lines = logs.lines().filter(|line| line.contains("model.safetensors: "));
    let line = lines.next_back().unwrap_or_else(|| panic!("not a word of the model in\n{logs}"));
    line.split_once("model.safetensors: ").unwrap().1.to_owned()
}

/// The numbers of MiB in such a line, by what follows each.
fn mib(line: &str, whence: &str) -> f64 {
    let part = line.split(", ").find(|part| part.ends_with(whence));
    let part = part.unwrap_or_else(|| panic!("nothing {whence}: {line}"));
    part.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_base_model_comes_from_the_agent_that_has_it() {
    let mut story = Story::begin(str::to_owned);
    // The coordinator could not even if it were asked.
    let blob = story.coordinators_blob();
    fs::rename(&blob, blob.with_extension("hidden")).unwrap();
    start(&mut story.sandbox, "two", &[]);
    succeeds(&story.sandbox, story.job, "two");
    let line = told(&story.sandbox, story.job);
    assert!(line.ends_with("MiB from agent one") && !line.contains(','), "{line}");
}

#[test]
fn a_transfer_goes_on_after_the_agent_was_killed() {
    let mut story = Story::begin(|share| slow_line(share, SLOW));
    start(&mut story.sandbox, "two", &[]);
    story.two_is_fetching();
    story.sandbox.kill_agent("two");
    start(&mut story.sandbox, "two", &[]);
    succeeds(&story.sandbox, story.job, "two");
    let line = told(&story.sandbox, story.job);
    let (sent, kept) = (mib(&line, "from agent one"), mib(&line, "were here"));
    assert!(kept >= 4.0 && sent >= 1.0 && (sent + kept - 21.3).abs() < 0.3, "{line}");
}

#[test]
fn an_agent_that_vanishes_leaves_the_rest_to_the_coordinator() {
    let mut story = Story::begin(|share| slow_line(share, SLOW));
    start(&mut story.sandbox, "two", &[]);
    story.two_is_fetching();
    story.sandbox.kill_agent("one");
    succeeds(&story.sandbox, story.job, "two");
    let line = told(&story.sandbox, story.job);
    assert!(mib(&line, "from agent one") >= 4.0, "{line}");
    assert!(mib(&line, "from the coordinator") >= 1.0, "{line}");
    let logs = logs(&story.sandbox, story.job);
    assert!(logs.contains("model.safetensors: agent one at 127.0.0.1:"), "{logs}");
}

#[test]
fn what_was_used_longest_ago_makes_room_and_what_rots_is_fetched_anew() {
    let mut sandbox = Sandbox::new(PROGRAM);
    let size = ["--cache-size", "30MiB"];
    start(&mut sandbox, "one", &size);
    let recipes = ["base", "another"].map(|name| recipe(&sandbox, &model(&sandbox, name)));
    let folder = sandbox.folder().join("one");
    let run = |sandbox: &Sandbox, recipe: &Path| {
        let job = sandbox.submit(recipe);
        succeeds(sandbox, job, "one");
        job
    };
    run(&sandbox, &recipes[0]);
    let first = largest(&folder, "").unwrap();
    run(&sandbox, &recipes[1]);
    let second = largest(&folder, "").unwrap();
    assert!(first != second && !first.exists());
    // The one that is there is not fetched, the one that went is.
    let again = run(&sandbox, &recipes[1]);
    assert!(!logs(&sandbox, again).contains("model.safetensors: "));
    let anew = run(&sandbox, &recipes[0]);
    assert!(told(&sandbox, anew).ends_with("MiB from the coordinator"));
    assert!(first.exists() && !second.exists());
    let one = |s: &Sandbox| (caches(s, "one")? == 1).then_some(());
    sandbox.wait_for("the coordinator to hear what is left", LIMIT, one);

    sandbox.kill_agent("one");
    let mut bytes = fs::read(&first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&first, Permissions::from_mode(0o644)).unwrap();
    fs::write(&first, bytes).unwrap();
    start(&mut sandbox, "one", &size);
    let sound = run(&sandbox, &recipes[0]);
    assert!(told(&sandbox, sound).ends_with("MiB from the coordinator"));
    let log = fs::read_to_string(sandbox.folder().join("one.log")).unwrap();
    assert!(log.contains("does not match its hash, fetched anew"), "{log}");
}
