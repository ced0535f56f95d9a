//! How things look, as snapshots of fixed views.

pub(crate) mod views;

use fleetune_shared::peft::{Lint, Reader};
use fleetune_shared::{Bounded, ByteSize, Change, Fit, Headroom, view};
use insta::assert_snapshot;
use serde_json::Value;

use super::{
    AdapterCard, AdapterList, AgentList, Colour, Explained, JobCard, JobList, Learned, Refusals,
    Show, Sizing, Style, SweepTable, text,
};
use crate::failure::{Failure, Report};
use views::{agents, card, closed_agents, estimate, explanation, history, jobs, lineage};

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

fn report(failure: Failure) -> Report {
    match failure {
        Failure::Error(report) => *report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn jobs_on_one_line_each() {
    let jobs = jobs();
    let list = JobList { jobs: &jobs, now_ms: views::NOW };
    assert_snapshot!("jobs_table", list.table(Style::PLAIN));
    assert_snapshot!("jobs_quiet", list.quiet());
}

#[test]
fn a_job_for_scripts() {
    let jobs = jobs();
    let list = JobList { jobs: &jobs[2..3], now_ms: views::NOW };
    assert_snapshot!("jobs_json", pretty(&list.json()));
}

#[test]
fn a_job_whole() {
    let jobs = jobs();
    let shown: Vec<String> = jobs
        .iter()
        .map(|job| JobCard::new(job, &[4.0, 3.5, 2.0, 1.0, 0.5]).table(Style::PLAIN))
        .collect();
    assert_snapshot!("job_show", shown.join("\n\n"));
}

#[test]
fn agents_and_what_is_promised() {
    let agents = agents();
    let list = |agents| AgentList { agents, now_ms: views::NOW };
    assert_snapshot!("agents_table", list(&agents).table(Style::PLAIN));
    assert_snapshot!("agents_json", pretty(&list(&agents[..1]).json()));
}

#[test]
fn agents_whose_owners_come_first() {
    let agents = closed_agents();
    let list = |agents| AgentList { agents, now_ms: views::NOW };
    assert_snapshot!("agents_closed_table", list(&agents).table(Style::PLAIN));
    assert_snapshot!(
        "agents_closed_json",
        pretty(&list(&agents[..1]).json()[0]["offer"]["availability"])
    );
}

#[test]
fn a_sweep_best_loss_first() {
    assert_snapshot!("sweep_table", SweepTable::new(jobs()).table(Style::PLAIN));
}

#[test]
fn why_a_job_waits() {
    assert_snapshot!("explain_table", Explained::new(&explanation(), None).table(Style::PLAIN));
    assert_snapshot!("explain_json", pretty(&Explained::new(&explanation(), None).json()));
}

#[test]
fn a_closed_card_says_why_below_the_table() {
    let mut closed = explanation();
    closed.cards[1].verdict = view::Verdict::Closed;
    closed.cards[1].lacks = Some("its owner uses it: blender, 6.10 GiB".into());
    let table = Explained::new(&closed, None).table(Style::PLAIN);
    assert!(table.contains("\nbench-4: its owner uses it: blender, 6.10 GiB\n"), "{table}");
}

#[test]
fn what_a_recipe_needs() {
    let fit = |gib, headroom, length, rows, changes| Fit {
        card: card(gib),
        headroom,
        length,
        rows,
        changes,
    };
    let longest = Some(vec![Change::MicroBatch { rows: 1, accumulation: 4 }, Change::Length(512)]);
    let sizing = Sizing {
        name: "tone".into(),
        about: "3.21 billion parameters, fleetune on CUDA, 4 rows of 2048 tokens at a time".into(),
        need: Bounded { estimate: estimate(), low: ByteSize(9 << 30), high: ByteSize(11 << 30) },
        useful: ByteSize(12 << 30),
        fits: vec![
            fit(6, Headroom::No, None, None, None),
            fit(8, Headroom::No, None, Some(2), longest),
            fit(10, Headroom::Tight, Some(2112), Some(4), None),
            fit(24, Headroom::Comfortable, Some(16384), Some(30), None),
        ],
    };
    assert_snapshot!("estimate_table", sizing.table(Style::PLAIN));
    let narrow = Style { colour: false, width: Some(60) };
    assert_snapshot!("estimate_narrow", sizing.table(narrow));
    assert_snapshot!("estimate_json", pretty(&sizing.json()));
}

#[test]
fn what_the_fleet_learned() {
    assert_snapshot!("history_table", Learned(&history()).table(Style::PLAIN));
    assert_snapshot!("history_json", pretty(&Learned(&history()).json()));
    assert_snapshot!("history_empty", Learned(&Default::default()).table(Style::PLAIN));
}

#[test]
fn adapters_in_the_fleet_and_one_in_full() {
    assert_snapshot!("adapters_table", AdapterList(&jobs()[2..3]).table(Style::PLAIN));
    let config = r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "SmolLM2-135M-Instruct"}"#;
    let card = AdapterCard {
        title: "job 3 tone".into(),
        config: serde_json::from_str(config).unwrap(),
        bytes: fleetune_shared::ByteSize(5 << 20),
        lineage: Some(lineage()),
        lints: vec![Lint { reader: Reader::Vllm, message: "DoRA is not supported".into() }],
    };
    assert_snapshot!("adapter_show", card.table(Style::PLAIN));
}

#[test]
fn an_error_says_what_and_what_to_do() {
    let refusals = [("tone".to_owned(), explanation())];
    let refusals = Refusals(&refusals);
    let failure = Failure::new("refused", "tone was refused: it fits no card")
        .detail(refusals.text(Style::PLAIN), "refused", refusals.json())
        .hint("set per_device_train_batch_size: 2");
    let report = report(failure);
    assert_snapshot!("error_text", text::error(&report, Style::PLAIN));
    assert_snapshot!("error_json", pretty(&report.json()));
}

#[test]
fn colours_are_used_only_where_wanted() {
    let loud = Style { colour: true, width: None };
    assert_eq!(loud.paint(Colour::Bad, "error:"), "\u{1b}[31merror:\u{1b}[0m");
    assert_eq!(Style::PLAIN.paint(Colour::Bad, "error:"), "error:");
    let jobs = jobs();
    let list = JobList { jobs: &jobs, now_ms: views::NOW };
    assert!(list.table(loud).contains("\u{1b}["));
    assert!(!list.table(Style::PLAIN).contains('\u{1b}'));
}

#[test]
fn a_remote_name_cannot_paint_the_screen() {
    let mut jobs = jobs();
    jobs[0].name = "x\u{1b}[2Jx".into();
    jobs[0].waiting = Some("\u{1b}]0;gotcha\u{7}".into());
    let list = JobList { jobs: &jobs, now_ms: views::NOW }.table(Style::PLAIN);
    let whole = JobCard::new(&jobs[0], &[]).table(Style::PLAIN);
    assert!(!list.contains('\u{1b}') && !whole.contains('\u{1b}'), "{list}\n{whole}");
}
