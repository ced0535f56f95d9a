//! Preferences: what of a pair or a judged answer is learned, how it is cut, and what is refused.

use std::path::Path;

use fleetune_engine::data::{Dataset, IGNORED, Row};
use fleetune_engine::model::spec_of;
use fleetune_shared::{ModelSpec, Recipe};
use serde_json::{Value, json};

use crate::bench::Bench;

const PAIR: &str = r#"{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello."}], "rejected": [{"role": "assistant", "content": "No."}]}"#;

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

#[test]
fn an_answer_is_learned_to_its_very_end() {
    let bench = Bench::new();
    let preview = bench.preview(PAIR, "task: dpo");
    assert_eq!(preview.len(), 2);
    assert!(preview[0].ends_with("<|im_start|>assistant\n[Hello.<|im_end|>\n]"), "{}", preview[0]);
    assert!(preview[1].ends_with("<|im_start|>assistant\n[No.<|im_end|>\n]"), "{}", preview[1]);
    let text = r#"{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}"#;
    let preview = bench.preview(text, "task: simpo");
    assert_eq!(preview, ["The sky is[ blue.<|im_end|>]", "The sky is[ green.<|im_end|>]"]);
}

#[test]
fn a_pair_is_one_sequence() {
    let bench = Bench::new();
    let dataset = bench.load(format!("{PAIR}\n{PAIR}\n"), "task: dpo").unwrap();
    assert_eq!((dataset.len(), dataset.stats.rows), (2, 2));
    let batch = dataset.micro_batch(&[1, 0]).unwrap();
    assert_eq!((batch.cu_seqlens.len(), batch.sequences), (5, vec![1, 0]));
}

#[test]
fn a_prompt_lies_in_a_batch_once_unless_its_positions_depend_on_the_answer() {
    let bench = Bench::new();
    let pair =
        json!({"prompt_ids": ids(10, 9), "chosen_ids": ids(50, 4), "rejected_ids": ids(60, 2)});
    let text = format!("{pair}\n");
    let shared = bench.load(&text, "task: dpo").unwrap();
    let batch = shared.micro_batch(&[0]).unwrap();
    assert_eq!((batch.tokens(), batch.tokens_computed(), shared.tokens_of(0)), (24, 16, 24));
    assert_eq!(batch.input_ids[13..], [18, 60, 61]);
    assert_eq!(shared.tokens_computed_of(0).unwrap(), 16);

    let recipe = "model_name_or_path: base\ndataset_name: rows.jsonl\ntask: dpo";
    let settings = Recipe::read(recipe).unwrap().data;
    let longrope = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/tiny-phi3-long");
    let spec = ModelSpec { vocab_size: 49_152, ..spec_of(Path::new(longrope)).unwrap() };
    let rows = bench.file("rows.jsonl", &text);
    let apart = Dataset::load(&[rows], &settings, Some(&bench.tokenizer), &spec).unwrap();
    let batch = apart.micro_batch(&[0]).unwrap();
    assert_eq!((batch.tokens(), batch.tokens_computed()), (24, 24));
    assert_eq!(apart.tokens_computed_of(0).unwrap(), 24);
}

/// Token `10 p + i` for the i-th of prompt p, and `10 a + i` for answer a.
fn ids(first: u32, tokens: u32) -> Value {
    (first..first + tokens).collect::<Vec<_>>().into()
}

fn judged(rows: &[(u32, u32, bool)], keys: &str, micro_batch: usize) -> Dataset {
    let bench = Bench::new();
    let row = |(i, (prompt, answer, label)): (usize, &(u32, u32, bool))| {
        let first = 100 * (i as u32 + 1);
        json!({"prompt_ids": ids(first, *prompt), "completion_ids": ids(first + 50, *answer), "label": label})
    };
    let text = lines(&rows.iter().enumerate().map(row).collect::<Vec<_>>());
    let keys = format!("task: kto\n{keys}");
    let dataset = bench.load(text, &keys).unwrap();
    let recipe = format!("model_name_or_path: base\ndataset_name: rows.jsonl\n{keys}");
    dataset.mismatched(micro_batch, &Recipe::read(&recipe).unwrap().data)
}

fn learned(row: &Row) -> Vec<i64> {
    row.labels.iter().copied().filter(|label| *label != IGNORED).collect()
}

#[test]
fn prompts_meet_the_answers_of_others() {
    let dataset = judged(&[(3, 2, true), (2, 3, false), (1, 1, true)], "", 2);
    let [own, other] = <[Row; 2]>::try_from(dataset.sequence(0).unwrap()).unwrap();
    assert_eq!(own.input_ids, [100, 101, 102, 150, 151]);
    assert_eq!(other.input_ids, [100, 101, 102, 250, 251, 252]);
    assert_eq!((learned(&own), learned(&other)), (vec![150, 151], vec![250, 251, 252]));
    let other = &dataset.sequence(2).unwrap()[1];
    assert_eq!(other.input_ids, [300, 250, 251, 252], "left alone, it takes the one before");
    assert_eq!([0, 1, 2].map(|i| dataset.desirable(i)), [true, false, true]);
}

#[test]
fn a_cut_answer_is_whole_behind_a_shorter_prompt() {
    let keys = "max_length: 5\nover_length: truncate";
    let dataset = judged(&[(3, 4, true), (1, 4, true)], keys, 2);
    let rows = |i| -> Vec<Vec<u32>> {
        dataset.sequence(i).unwrap().into_iter().map(|row| row.input_ids).collect()
    };
    assert_eq!(rows(0), [vec![100, 101, 102, 150, 151], vec![100, 101, 102, 250, 251]]);
    assert_eq!(rows(1), [vec![200, 250, 251, 252, 253], vec![200, 150, 151, 152, 153]]);
    assert_eq!((dataset.stats.truncated, dataset.stats.dropped), (1, 0));
}

#[test]
fn long_pairs_are_refused_dropped_or_cut() {
    let bench = Bench::new();
    let pair = |prompt: u32, chosen: u32, rejected: u32| json!({"prompt_ids": ids(10, prompt), "chosen_ids": ids(50, chosen), "rejected_ids": ids(50, rejected)});
    let text = lines(&[pair(2, 2, 1), pair(2, 9, 1), pair(2, 9, 8), pair(7, 2, 1)]);
    let refused = bench.refusal(&text, "task: dpo\nmax_length: 6");
    assert!(refused.starts_with(": line 2: 11 tokens, longer than `max_length` 6"), "{refused}");
    let load =
        |keys: &str| bench.load(&text, &format!("task: dpo\nmax_length: 6\n{keys}")).unwrap();
    let dropped = load("over_length: drop");
    assert_eq!((dropped.len(), dropped.stats.dropped), (1, 3));
    // The third is the same pair of answers once it is cut; of the fourth only a prompt is left.
    let cut = load("over_length: truncate");
    assert_eq!((cut.len(), cut.stats.truncated, cut.stats.dropped), (2, 1, 2));
    assert_eq!(cut.sequence(1).unwrap()[0].input_ids, [10, 11, 50, 51, 52, 53]);
    let end = load("over_length: truncate\ntruncation_mode: keep_end");
    assert_eq!(end.sequence(1).unwrap()[0].input_ids, [53, 54, 55, 56, 57, 58]);
}

#[test]
fn opinions_that_teach_nothing_are_refused_by_line() {
    let bench = Bench::new();
    for (row, task, expected) in [
        (json!({"prompt": "a", "chosen": "b", "rejected": "b"}), "dpo", "are the same"),
        (json!({"prompt": "a", "chosen": "", "rejected": "b"}), "orpo", "`chosen` is empty"),
        (json!({"prompt": "a", "completion": "b"}), "kto", "column `label` is missing"),
        (json!({"prompt": "a", "completion": " ", "label": true}), "kto", "`completion` is empty"),
        (json!({"instruction": "a", "output": "b"}), "cpo", "column `chosen` is missing"),
        (
            json!({"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}),
            "dpo",
            "message 2 is by `user` after `user`",
        ),
    ] {
        let refused = bench.refusal(format!("{PAIR}\n{row}\n"), &format!("task: {task}"));
        if task == "kto" {
            // Its first row is no judged answer either.
            assert!(refused.starts_with(": line 1: column `label` is missing"), "{refused}");
            let refused = bench.refusal(format!("{row}\n"), "task: kto");
            assert!(refused.contains(expected), "{refused}");
            continue;
        }
        assert!(refused.starts_with(": line 2: ") && refused.contains(expected), "{refused}");
    }
}
