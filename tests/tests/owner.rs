//! The owner comes first, with real processes: a coordinator, agents and trainers, and a driver whose answers follow a
//! script. `desk` is somebody's workstation; `rack` is another card, which takes over.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleetune_stub_nvml::{ANSWERS, Answers, CardAnswer, Scene, Script, Stub};
use fleetune_tests::{Sandbox, demo_asset};
use jiff::Timestamp;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fleetune-under-test");
const LIMIT: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;
/// Some seconds' worth.
const STEPS: u32 = 150;
/// More than any story waits for.
const ENDLESS: u32 = 1_000_000;

/// A fleet of one workstation, with a job of a few seconds that runs there.
struct Story {
    sandbox: Sandbox,
    desk: Stub,
    job: u64,
}

fn machine(card: CardAnswer) -> Answers {
    Answers { cards: vec![card], ..Answers::default() }
}

impl Story {
    fn begin(options: &[&str], steps: u32) -> Self {
        let mut sandbox = Sandbox::new(PROGRAM);
        let desk = Stub::write(sandbox.folder(), &machine(CardAnswer::rtx_3080())).unwrap();
        let library = fleetune_stub_nvml::library().unwrap().display().to_string();
        let answers = desk.answers().display().to_string();
        let driver = [("FLEETUNE_NVML", &library[..]), (ANSWERS, &answers), ("TZ", "UTC")];
        sandbox.start_agent_with("desk", options, &driver);
        let job = sandbox.submit(&recipe(&sandbox, steps));
        let story = Self { sandbox, desk, job };
        story.wait("a checkpoint", |job| job["checkpoint_step"].as_u64());
        story
    }

    fn see(&self, card: CardAnswer) {
        self.desk.answer(&machine(card)).unwrap();
    }

    fn rack(&mut self) {
        self.sandbox.start_agent("rack", "4GiB");
    }

    /// What `job show` answers, once it is as wanted.
    fn wait<T>(&self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        let id = self.job.to_string();
        self.sandbox.wait_for(what, LIMIT, |s| wanted(&s.json(&["job", "show", &id])?))
    }

    /// The desk as `fleetune agents` shows it, once it is in this state.
    fn desk_is(&self, state: &str) -> Value {
        self.sandbox.wait_for(&format!("the desk to be {state}"), LIMIT, |s| {
            let desk =
                s.json(&["agents"])?.as_array()?.iter().find(|a| a["name"] == "desk")?.clone();
            (desk["offer"]["availability"]["state"] == state).then_some(desk)
        })
    }

    /// How long it took until no trainer was left on the desk.
    fn given_back(&self) -> Duration {
        let begun = Instant::now();
        let gone = |s: &Sandbox| s.trainers_of("desk").is_empty().then_some(());
        self.sandbox.wait_for("the trainer to leave", LIMIT, gone);
        begun.elapsed()
    }

    /// Why the last attempt ended without a result.
    fn why(&self) -> String {
        self.wait("the job to be given back", |job| {
            Some(job["failure"]["message"].as_str()?.to_owned())
        })
    }

    fn explain(&self) -> String {
        let explained = self.sandbox.json(&["job", "explain", &self.job.to_string()]).unwrap();
        explained["summary"].as_str().unwrap().to_owned()
    }

    /// The job goes on in this attempt on this agent, from where it was.
    fn goes_on(&self, agent: &str, attempt: u64) {
        let at = |job: &Value| job["latest"]["step"].as_u64();
        let before = self.wait("its last step", at);
        self.wait("more steps", |job| {
            let here = job["agent"] == agent && job["attempt"] == attempt;
            (here && at(job)? > before).then_some(())
        });
    }

    /// The job ends well in this attempt on this agent.
    fn succeeds(&self, agent: &str, attempt: u64) {
        let job = self.sandbox.wait_job(self.job, LIMIT);
        assert_eq!(job["phase"], "succeeded", "{job:#}");
        assert_eq!((&job["agent"], job["attempt"].as_u64()), (&agent.into(), Some(attempt)));
        assert_eq!(job["summary"]["steps"], STEPS, "{job:#}");
    }
}

fn recipe(sandbox: &Sandbox, steps: u32) -> PathBuf {
    let path = sandbox.folder().join("short.yaml");
    let text = format!(
        "name: short\nmodel_name_or_path: {}\ndataset_name: {}\nr: 4\nmax_steps: {steps}\nsave_steps: 5\n\
         max_length: 64\nper_device_train_batch_size: 4\nlearning_rate: 3e-3\n",
        demo_asset("model").display(),
        demo_asset("data.jsonl").display()
    );
    fs::write(&path, text).expect("a recipe");
    path
}

fn blender() -> CardAnswer {
    CardAnswer::rtx_3080().with("/usr/bin/blender", 4_190_000, 6 * GIB)
}

#[test]
fn an_owner_who_returns_has_the_card_and_the_job_goes_on_elsewhere() {
    let mut story = Story::begin(&["--idle-after", "1s", "--yield-within", "20s"], STEPS);
    story.see(blender());
    let took = story.given_back();
    eprintln!("the card was given back after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(story.why(), "its owner uses it: blender, 6.00 GiB");
    story.desk_is("owner");
    assert_eq!(
        story.explain(),
        "`desk` would hold it but is closed (its owner uses it: blender, 6.00 GiB)"
    );
    story.rack();
    story.succeeds("rack", 2);
    // The desk is lent again once its owner has been away for long enough.
    story.see(CardAnswer::rtx_3080());
    story.desk_is("open");
}

#[test]
fn the_card_is_given_back_while_the_coordinator_is_away() {
    let mut story = Story::begin(&["--yield-within", "20s"], ENDLESS);
    story.sandbox.kill_coordinator();
    story.see(blender());
    let took = story.given_back();
    assert!(took < Duration::from_secs(20), "{took:?}");
    story.sandbox.start_coordinator();
    story.rack();
    story.goes_on("rack", 2);
}

#[test]
fn a_window_closes() {
    // Long enough to begin the job in.
    let closes = Timestamp::now().as_second() + 10;
    let time =
        |second: i64| Timestamp::from_second(second).unwrap().strftime("%H:%M:%S").to_string();
    let hours = format!("{}-{}", time(closes - 3600), time(closes));
    let mut story = Story::begin(&["--available", &hours], ENDLESS);
    story.desk_is("off_hours");
    story.given_back();
    let why = story.explain();
    assert!(why.contains(&format!("available {hours}; opens in 2")), "{why}");
    story.rack();
    story.goes_on("rack", 2);
}

#[test]
fn a_trainer_that_does_not_leave_in_time_is_ended_and_its_last_checkpoint_counts() {
    let mut story = Story::begin(&["--max-temperature", "85", "--yield-within", "0s"], ENDLESS);
    story.see(CardAnswer { celsius: Some(87), ..CardAnswer::rtx_3080() });
    story.given_back();
    assert_eq!(story.why(), "too hot: 87 °C, limit 85 °C; its checkpoint was not ready in time");
    story.rack();
    story.goes_on("rack", 2);
}

#[test]
fn a_driver_error_drains_the_card() {
    let story = Story::begin(&[], STEPS);
    story.see(CardAnswer { xid: Some(48), ..CardAnswer::rtx_3080() });
    story.desk_is("driver_error");
    story.succeeds("desk", 1);
    let next = Story { job: story.sandbox.submit(&recipe(&story.sandbox, STEPS)), ..story };
    assert_eq!(
        next.explain(),
        "`desk` would hold it but is closed (its driver reported error Xid 48; look at the card, then restart the \
         agent)"
    );
}

#[test]
fn a_card_that_disappears_loses_its_job_and_has_it_again_when_it_returns() {
    let story = Story::begin(&[], ENDLESS);
    let lost = CardAnswer { error: 15, ..CardAnswer::rtx_3080() };
    let scene = |after_ms, card| Scene { after_ms, answers: machine(card) };
    let scenes = vec![scene(0, lost), scene(4_000, CardAnswer::rtx_3080())];
    story.desk.play(&Script::Scenes(scenes)).unwrap();
    story.desk_is("gone");
    story.given_back();
    assert!(story.why().starts_with("its driver does not answer: device fell off the bus"));
    story.desk_is("open");
    story.goes_on("desk", 2);
}

#[test]
fn an_agent_is_paused_and_resumed_by_hand() {
    let story = Story::begin(&[], ENDLESS);
    let agent = |verb: &str| {
        let output = story.sandbox.cli(&["agent", verb, "desk"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let table = agent("pause");
    assert!(table.contains("paused") && table.contains("desk: paused by hand"), "{table}");
    story.given_back();
    assert_eq!(story.why(), "its agent was paused");
    assert_eq!(story.explain(), "`desk` would hold it but is closed (paused by hand)");
    agent("resume");
    story.goes_on("desk", 2);
}

#[test]
fn an_attempts_peak_is_what_the_driver_said_its_trainer_held() {
    let trainers = |gib: u64| CardAnswer::rtx_3080().with_trainers(gib * GIB);
    let story = Story::begin(&[], STEPS);
    let scene = |after_ms, card| Scene { after_ms, answers: machine(card) };
    let scenes = vec![scene(0, trainers(2)), scene(700, trainers(3)), scene(2_200, trainers(1))];
    story.desk.play(&Script::Scenes(scenes)).unwrap();
    story.succeeds("desk", 1);
    let job = story.wait("its record", |job| Some(job.clone()));
    let record = &job["attempts"][0];
    assert_eq!(record["vram_bytes_peak"], 3 * GIB, "{record:#}");
    assert_eq!(record["peak_source"], "driver");
    assert_eq!(job["summary"]["memory_bytes_peak"], 3 * GIB);
    let history = story.sandbox.json(&["estimate", "--history"]).unwrap();
    assert_eq!(history["corrections"][0]["peak_source"], "driver", "{history:#}");

    // A driver that does not tell whose memory is whose: what the trainer counted itself, and learned apart.
    story.see(CardAnswer { processes_error: 4, ..CardAnswer::rtx_3080() });
    let next = Story { job: story.sandbox.submit(&recipe(&story.sandbox, STEPS)), ..story };
    next.succeeds("desk", 1);
    let job = next.wait("its record", |job| Some(job.clone()));
    let record = &job["attempts"][0];
    assert_eq!(record["peak_source"], "trainer", "{record:#}");
    let peak = record["vram_bytes_peak"].as_u64().unwrap();
    assert!(peak > 0 && peak < GIB, "{record:#}");
}

#[test]
fn two_instances_of_a_divided_gpu_are_two_cards() {
    let mut sandbox = Sandbox::new(PROGRAM);
    // The smaller one holds none of the jobs.
    let divided = |on_large: u64| {
        let mut card = CardAnswer::a100_divided();
        if let Some(instances) = &mut card.instances {
            instances[1].total = 24 << 20;
            if on_large > 0 {
                instances[0] = instances[0].clone().with("/usr/bin/blender", 4_190_000, on_large);
            }
        }
        machine(card)
    };
    let stub = Stub::write(sandbox.folder(), &divided(0)).unwrap();
    let library = fleetune_stub_nvml::library().unwrap().display().to_string();
    let answers = stub.answers().display().to_string();
    let driver = [("FLEETUNE_NVML", &library[..]), (ANSWERS, &answers)];
    sandbox.start_agent_with("small", &["--gpu", "MIG-1"], &driver);
    sandbox.start_agent_with("large", &["--gpu", "0:0", "--idle-after", "1s"], &driver);
    let state = |s: &Sandbox, name: &str| {
        let agents = s.json(&["agents"])?;
        let agent = agents.as_array()?.iter().find(|agent| agent["name"] == name)?.clone();
        Some((agent["offer"]["availability"]["state"].as_str()?.to_owned(), agent))
    };
    let cards = ["large", "small"].map(|name| state(&sandbox, name).unwrap().1["offer"].clone());
    assert_eq!(cards[0]["card"]["name"], "NVIDIA A100-PCIE-40GB MIG 3g.20gb", "{cards:#?}");
    assert_eq!(cards[1]["card"]["vram_bytes_total"], 24 << 20, "{cards:#?}");

    let job = sandbox.submit(&recipe(&sandbox, STEPS));
    let ended = sandbox.wait_job(job, LIMIT);
    assert_eq!((&ended["phase"], &ended["agent"]), (&"succeeded".into(), &"large".into()));

    // Somebody comes to the larger one.
    stub.answer(&divided(6 * GIB)).unwrap();
    let taken = sandbox.wait_for("the larger one to close", LIMIT, |s| {
        state(s, "large").filter(|(state, _)| state == "owner")
    });
    assert_eq!(taken.1["offer"]["vram_bytes_foreign"], (6 * GIB) + (16 << 20), "{:#}", taken.1);
    let (untouched, small) = state(&sandbox, "small").unwrap();
    assert_eq!(
        (&untouched[..], &small["offer"]["vram_bytes_foreign"]),
        ("open", &(16 << 20).into())
    );
}
