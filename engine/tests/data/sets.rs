//! Several sets as one, rows held out, and tokens kept for later runs.

use std::path::Path;

use fleetune_engine::Result;
use fleetune_engine::data::{Dataset, Datasets};
use fleetune_shared::{DataFiles, Recipe};
use serde_json::json;

use crate::bench::{Bench, rows, spec};

/// Sets of rows `[n, n]`, counting up through all of them.
fn sets(bench: &Bench, sizes: &[u32]) -> DataFiles {
    let mut next = 10;
    let mut files = DataFiles::default();
    for (i, size) in sizes.iter().enumerate() {
        let lines = (next..next + size).map(|n| json!({"input_ids": [n, n]}).to_string() + "\n");
        files.sets.push(vec![bench.file(&format!("{i}.jsonl"), lines.collect::<String>())]);
        next += size;
    }
    files
}

fn load(bench: &Bench, files: &DataFiles, keys: &str) -> Result<Datasets> {
    let names: Vec<String> = (0..files.sets.len()).map(|i| format!("{i}.jsonl")).collect();
    let recipe = format!("model_name_or_path: base\ndataset_name: [{}]\n{keys}", names.join(", "));
    let settings = Recipe::read(&recipe).unwrap().data;
    Datasets::load(files, &settings, Some(&bench.tokenizer), &spec(), 42)
}

fn firsts(dataset: &Dataset) -> Vec<u32> {
    rows(dataset).iter().map(|row| row.input_ids[0]).collect()
}

#[test]
fn sets_lie_end_to_end_unless_they_are_mixed() {
    let bench = Bench::new();
    let files = sets(&bench, &[3, 2]);
    let plain = load(&bench, &files, "").unwrap();
    assert_eq!(firsts(&plain.train), [10, 11, 12, 13, 14]);
    assert!(plain.held_out.is_none());

    let files = sets(&bench, &[40, 40]);
    let mixed = load(&bench, &files, "dataset_probabilities: [3, 1]").unwrap().train;
    let found = firsts(&mixed);
    let (a, b): (Vec<u32>, Vec<u32>) = found.iter().partition(|n| **n < 50);
    assert!(a.len() == 40 && (5..25).contains(&b.len()), "{found:?}");
    assert_eq!(mixed.stats.rows, found.len() as u64);
    assert_eq!(mixed.stats.tokens, 2 * found.len() as u64);
    let all = "dataset_probabilities: [3, 1]\nstopping_strategy: all_exhausted\nmax_samples: 100";
    let found = firsts(&load(&bench, &files, all).unwrap().train);
    assert_eq!(found.len(), 100, "short sets begin again, and the mixture is cut");
}

#[test]
fn held_out_rows_are_asked_and_never_learned() {
    let bench = Bench::new();
    let files = sets(&bench, &[6, 6]);
    for (keys, held) in [("test_split_size: 0.25", 3), ("test_split_size: 5", 5)] {
        let Datasets { train, held_out } = load(&bench, &files, keys).unwrap();
        let (train, held_out) = (firsts(&train), firsts(&held_out.unwrap()));
        assert_eq!(held_out.len(), held);
        assert!(train.is_sorted() && held_out.is_sorted());
        let mut all = [train, held_out].concat();
        all.sort_unstable();
        assert_eq!(all, (10..22).collect::<Vec<_>>());
    }
    let error = load(&bench, &files, "test_split_size: 12").unwrap_err().to_string();
    assert!(error.contains("`test_split_size` holds out 12 of 12 rows"), "{error}");

    // Rows of their own, packed training or not.
    let mut files = sets(&bench, &[6]);
    files.held_out.push(bench.file("eval.jsonl", "{\"input_ids\": [7, 7]}\n"));
    let both =
        load(&bench, &files, "eval_dataset: eval.jsonl\npacking: true\nmax_length: 4").unwrap();
    assert_eq!((both.train.len(), firsts(&both.held_out.unwrap())), (3, vec![7]));
    files.held_out[0] = Path::new("none.jsonl").into();
    let error = load(&bench, &files, "eval_dataset: none.jsonl").unwrap_err().to_string();
    assert!(error.contains("none.jsonl"), "{error}");
}

#[test]
fn tokens_are_kept_for_the_next_run_and_never_mistaken() {
    let bench = Bench::new();
    let cache = bench.folder.path().join("cache");
    let mut files = DataFiles { cache: Some(cache.clone()), ..DataFiles::default() };
    let text = |answer: &str| {
        format!("{{\"prompt\": \"The capital of France is\", \"completion\": \"{answer}\"}}\n")
    };
    files.sets.push(vec![bench.file("rows.jsonl", text(" Paris."))]);
    let count = || std::fs::read_dir(&cache).unwrap().count();
    let first = load(&bench, &files, "").unwrap().train;
    let first_rows = rows(&first);
    assert_eq!(count(), 1);
    let again = load(&bench, &files, "").unwrap().train;
    assert_eq!(
        (rows(&again), again.stats, again.hash()),
        (first_rows.clone(), first.stats, first.hash())
    );
    // Its bytes were not written again.
    let kept = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&kept).unwrap();

    // Whatever rows depend on makes another file.
    load(&bench, &files, "completion_only_loss: false").unwrap();
    load(&bench, &files, "max_length: 64").unwrap();
    assert_eq!(count(), 3);
    load(&bench, &files, "learning_rate: 0.1").unwrap();
    assert_eq!(count(), 3, "but nothing else does");
    bench.file("rows.jsonl", text(" Lyon."));
    let changed = load(&bench, &files, "").unwrap().train;
    assert_ne!(changed.hash(), first.hash());
    assert_eq!(count(), 4);

    // A damaged file is made anew.
    bench.file("rows.jsonl", text(" Paris."));
    bytes[3] ^= 0x40;
    std::fs::write(&kept, &bytes).unwrap();
    assert_eq!(rows(&load(&bench, &files, "").unwrap().train), first_rows);
    assert_eq!(count(), 4);
    // What is refused leaves nothing behind.
    bench.file("rows.jsonl", "{}");
    load(&bench, &files, "").unwrap_err();
    assert_eq!(count(), 4);
}
