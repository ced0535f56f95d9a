//! Held-out rows: asked when they should be, and heeded.

use std::fs;
use std::path::Path;

use fleetune_engine::adapter;
use fleetune_engine::data::{MicroBatch, Row};
use fleetune_engine::model::Model;
use fleetune_shared::StepMetrics;
use serde_json::{Value, json};

use crate::{Story, fixture};

const FILE: &str = "adapter_model.safetensors";

/// Rows whose tokens follow no rule that could be learned from others.
fn held_out() -> Vec<Row> {
    let row = |seed: u32| {
        let ids: Vec<u32> = (0..12 + seed % 5)
            .map(|i| (seed * 7919 + i * i * 104_729 + i * 31) % 509 + 3)
            .collect();
        Row { labels: ids.iter().map(|id| i64::from(*id)).collect(), input_ids: ids }
    };
    (1..8).map(row).collect()
}

/// Learning so fast that strangers soon suffer.
fn story(more: Value) -> Story {
    let mut keys = json!({
        "eval_dataset": "held.jsonl",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "per_device_eval_batch_size": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 20,
        "save_steps": 3,
    });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut story = Story::tiny(keys);
    let path = story.out.path().join("held.jsonl");
    let line = |row: Row| json!({"input_ids": row.input_ids, "labels": row.labels}).to_string();
    let lines: Vec<String> = held_out().into_iter().map(line).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    story.order.data.held_out = vec![path];
    story
}

/// The evaluations in `metrics.jsonl`, and how many lines it has.
fn evaluations(story: &Story) -> (Vec<(u64, f64)>, usize) {
    let text = String::from_utf8(story.bytes("metrics.jsonl")).unwrap();
    let lines: Vec<StepMetrics> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let asked = lines.iter().filter_map(|m| Some((m.step, *m.more.get("eval_loss")?)));
    (asked.collect(), lines.len())
}

fn lowest(evaluations: &[(u64, f64)]) -> u64 {
    evaluations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
}

/// What the adapter in `folder` makes of the held-out rows, asked in one piece.
fn loss_of(folder: &Path) -> f64 {
    let mut model = Model::load(&fixture("models/tiny-llama")).unwrap();
    model.attach(adapter::load(folder).unwrap()).unwrap();
    let rows = held_out();
    let batch = MicroBatch::of(&rows.iter().collect::<Vec<_>>());
    model.loss(&batch).unwrap() / batch.supervised() as f64
}

#[test]
fn held_out_rows_are_asked_every_few_steps_and_at_the_end() {
    let story = story(json!({"max_steps": 5}));
    let summary = story.run().0.unwrap();
    let (asked, lines) = evaluations(&story);
    assert_eq!(lines, 5, "one line for each step, evaluated or not");
    assert_eq!(asked.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 5]);
    let (found, alone) = (asked[2].1, loss_of(&story.order.out));
    assert!((found - alone).abs() < 1e-5 * alone, "{found} in micro-batches, {alone} in one");
    assert_eq!(summary.eval_loss_last, Some(found));
    // Asking changes nothing of what is learned.
    let deaf = self::story(json!({"max_steps": 5, "eval_strategy": "no"}));
    deaf.run().0.unwrap();
    assert!(deaf.bytes(FILE) == story.bytes(FILE));
}

#[test]
fn a_run_ends_early_with_its_best_model() {
    let story = story(json!({
        "load_best_model_at_end": true,
        "early_stopping_patience": 3,
        "save_total_limit": 1,
    }));
    let (summary, watch) = story.run();
    let summary = summary.unwrap();
    let (asked, lines) = evaluations(&story);
    let best = lowest(&asked);
    assert_eq!(lines as u64, best + 6, "three evaluations in vain");
    assert!(watch.logged("ended early after step"));
    assert!(watch.logged(&format!("the result is the model after step {best}")));
    let told = summary.best.unwrap();
    assert_eq!((told.step, told.metric.as_str(), summary.steps), (best, "eval_loss", best + 6));
    assert!((loss_of(&story.order.out) - told.value).abs() < 1e-5 * told.value);
    // The checkpoint of the best model outlives newer ones; of those the newest stays.
    let kept: Vec<u64> = (0..=20).filter(|s| story.has(&format!("checkpoint-{s}"))).collect();
    assert_eq!(kept, [best, (best + 6) / 3 * 3]);
    assert!(story.bytes(FILE) == story.bytes(&format!("checkpoint-{best}/{FILE}")));
    assert!(!story.has(".best.safetensors"));
}

#[test]
fn without_asking_for_the_best_the_last_model_is_the_result() {
    let story = story(json!({"max_steps": 12}));
    let summary = story.run().0.unwrap();
    let best = summary.best.unwrap();
    assert!(best.step < 12, "strangers do suffer");
    assert!(loss_of(&story.order.out) > best.value);
}

#[test]
fn a_run_that_goes_on_elsewhere_still_ends_with_its_best_model() {
    let keys = json!({"load_best_model_at_end": true, "early_stopping_patience": 3});
    let straight = story(keys.clone());
    straight.run().0.unwrap();
    let best = lowest(&evaluations(&straight).0);

    let interrupted = story(keys.clone());
    let _ = interrupted.run_until(Some(best + 3));
    // All that another machine has of it is its last checkpoint.
    let mut elsewhere = story(keys);
    elsewhere.order.resume_from =
        Some(interrupted.order.out.join(format!("checkpoint-{}", best + 3)));
    elsewhere.run().0.unwrap();
    assert!(straight.bytes(FILE) == elsewhere.bytes(FILE));
    let last = |story: &Story| evaluations(story).0.last().copied();
    assert_eq!(last(&straight), last(&elsewhere));
}

#[test]
fn a_part_of_the_rows_can_be_held_out() {
    let story = Story::tiny(json!({
        "test_split_size": 0.2,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
        "learning_rate": 5e-3,
    }));
    let (summary, watch) = story.run();
    assert_eq!(watch.steps().len(), 12, "sixteen of twenty rows, three times");
    assert_eq!(evaluations(&story).0.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [4, 8, 12]);
    assert!(summary.unwrap().eval_loss_last.is_some());
}

#[test]
fn a_metric_that_nobody_measures_is_refused() {
    let refused = story(json!({"metric_for_best_model": "bleu"})).refusal();
    assert!(
        refused.contains("`metric_for_best_model` is \"bleu\", expected `eval_loss`"),
        "{refused}"
    );
}
