//! Every fault a data file can have: the answer names the place and what to do.

use crate::bench::{Bench, rows, spec};

const GOOD: &str = r#"{"instruction": "Say hi", "output": "hi"}"#;

#[test]
fn files_that_are_no_rows_are_refused_by_name() {
    let bench = Bench::new();
    let mut cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), ": the file is empty"),
        ("blank", b" \n\n".to_vec(), ": the file holds only blanks"),
        (
            "gzip, cut",
            vec![0x1F, 0x8B, 8, 0],
            ": the packed data is cut off; is the file complete?",
        ),
        ("zip", b"PK\x03\x04aaaa".to_vec(), ": the file is packed in a way that is not read"),
        ("parquet", b"PAR1aaaa".to_vec(), ": no sound Parquet file: "),
        ("UTF-16", vec![0xFF, 0xFE, b'{', 0], ": the file is UTF-16; save it as UTF-8"),
        ("text", b"instruction,output\na,b\n".to_vec(), ": line 1 begins with no `{` or `[`"),
    ];
    let line = |bad: &[u8]| [GOOD.as_bytes(), b"\n", bad].concat();
    cases.extend([
        ("invalid UTF-8", line(b"{\"output\": \"\xC3\x28\"}\n"), ": line 2: column 13: not UTF-8"),
        ("NUL", line(b"{\"output\": \"\0\"}\n"), ": line 2: column 13: a NUL byte"),
        ("cut last line", line(b"{\"output\": \"a"), ": line 2: column 13: EOF while parsing a string; the last line is cut off"),
        ("pretty-printed", b"{\n\"output\": 1}\n".to_vec(), ": line 1: column 1: EOF while parsing an object; expected a whole JSON object on every line"),
        ("bad JSON", line(b"{'output': 1}\n"), ": line 2: column 2: key must be a string"),
        ("no object", line(b"[1, 2]\n"), ": line 2: found `[1,2]`, expected a JSON object"),
        ("deeply nested", line(format!("{{\"a\": {}", "[".repeat(100_000)).as_bytes()), ": line 2: column 133: recursion limit exceeded"),
        ("array cut", format!("[{GOOD},\n{GOOD}").into_bytes(), ": row 3 (line 2 column 41): EOF while parsing a list; the array is cut off"),
        ("array of numbers", format!("[{GOOD}, 7]").into_bytes(), ": row 2: found `7`, expected a JSON object"),
        ("array and more", format!("[{GOOD}] x").into_bytes(), ": row 2 (line 1 column 45): trailing characters"),
        ("array, invalid UTF-8", b"[{\"output\": \"\xC3\x28\"}]".to_vec(), ": row 1 (line 1 column 14): invalid unicode code point"),
        ("empty array", b"[]".to_vec(), ": no row is left to train on (0 read"),
    ]);
    for (what, bytes, expected) in cases {
        let found = bench.refusal(bytes, "");
        assert!(found.starts_with(expected), "{what}: {found}");
    }
}

#[test]
fn rows_that_teach_nothing_right_are_refused_by_line() {
    let bench = Bench::new();
    for (row, keys, expected) in [
        // columns
        (r#"{"body": "a", "label": 1}"#, "", "columns are `body`, `label`, expected `messages`"),
        (r#"{}"#, "", "columns are none, expected"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#, "", "are preference pairs"),
        (r#"{"instruction": "a", "output": 5}"#, "", "column `output` is `5`, expected text"),
        (r#"{"instruction": "a", "output": null}"#, "", "column `output` is missing"),
        (r#"{"instruction": "a", "input": [], "output": "b"}"#, "", "column `input` is `[]`"),
        (
            r#"{"prompt": "a", "output": "b"}"#,
            "dataset_format: alpaca",
            "column `instruction` is missing; found `prompt`, `output`",
        ),
        (
            r#"{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}"#,
            "",
            "one of `prompt` and `completion` is a list",
        ),
        (r#"{"messages": "hi"}"#, "", "column `messages` is `\"hi\"`, expected a list"),
        // roles and contents
        (r#"{"messages": []}"#, "", "the conversation is empty"),
        (
            r#"{"messages": [{"role": "assistant", "content": "a"}]}"#,
            "",
            "message 1 is by `assistant` at the beginning, expected `system` or `user`",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}"#,
            "",
            "message 2 is by `user` after `user`, expected `assistant`",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}"#,
            "",
            "message 2 is by `system` after `user`",
        ),
        (
            r#"{"messages": [{"role": "human", "content": "a"}]}"#,
            "",
            "`messages[0]` has role `\"human\"`, expected system",
        ),
        (r#"{"messages": [{"content": "a"}]}"#, "", "`messages[0]` has no `role`"),
        (r#"{"messages": [{"role": "user"}]}"#, "", "`messages[0]` has no `content`"),
        (
            r#"{"messages": [{"role": "user", "content": 3}]}"#,
            "",
            "`messages[0]` has content `3`, expected text",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#,
            "",
            "a part of `content` that is no text",
        ),
        (r#"{"messages": ["hi"]}"#, "", "`messages[0]` is `\"hi\"`, expected an object"),
        (
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "narrator", "value": "b"}]}"#,
            "",
            "`conversations[1]` is from `narrator`",
        ),
        (
            r#"{"conversations": [{"from": "gpt", "value": "b"}]}"#,
            "",
            "message 1 is by `assistant` at the beginning",
        ),
        (
            r#"{"conversations": [{"from": "human"}]}"#,
            "",
            "`conversations[0]` column `value` is missing",
        ),
        // nothing to learn
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "", "nothing to learn"),
        (r#"{"input_ids": [1, 2], "labels": [-100, -100]}"#, "", "nothing to learn"),
        (r#"{"input_ids": [1, 2], "labels": [1, -100]}"#, "", "nothing to learn"),
        (r#"{"input_ids": []}"#, "", "nothing to learn"),
        // tokens
        (r#"{"input_ids": [1, 2], "labels": [1]}"#, "", "`labels` has 1 numbers, expected 2"),
        (r#"{"input_ids": [1, 49152]}"#, "", "`input_ids[1]` is 49152, expected 0 to 49151"),
        (r#"{"input_ids": [1, -1]}"#, "", "`input_ids[1]` is -1"),
        (r#"{"input_ids": [1, "a"]}"#, "", "`input_ids[1]` is `\"a\"`, expected a token id"),
        (
            r#"{"input_ids": [1, 2, 3], "labels": [2, 3, -100]}"#,
            "",
            "`labels[0]` is 2, expected 1 as in `input_ids`, or -100; labels are not shifted",
        ),
        (
            r#"{"input_ids": [1, 2], "attention_mask": [0, 1]}"#,
            "",
            "`attention_mask` hides more than padding",
        ),
        // length
        (
            r#"{"input_ids": [1, 2, 3, 4, 5]}"#,
            "max_length: 4",
            "5 tokens, longer than `max_length` 4; raise `max_length`, or choose `over_length: truncate`",
        ),
    ] {
        let found = bench.refusal(row, keys);
        assert!(found.starts_with(": line 1: "), "{row}: {found}");
        assert!(found.contains(expected), "{row}: {found}");
    }
}

#[test]
fn a_line_beyond_all_measure_is_refused_unread() {
    let bench = Bench::new();
    let monster = format!(r#"{{"instruction": "{}", "output": "b"}}"#, "a".repeat(17 << 20));
    let found = bench.refusal(&monster, "");
    assert_eq!(found, ": line 1: longer than 16 MiB; is it one JSON object per line?");
    assert_eq!(bench.refusal(format!("[{GOOD}, {monster}]"), ""), ": row 2: longer than 16 MiB");
}

/// One word of millions of letters would keep a tokenizer busy for minutes, and none of it could be used.
#[test]
fn a_text_far_beyond_its_length_is_not_even_tokenised() {
    let bench = Bench::new();
    let word = "ab".repeat(4 << 20);
    let text = format!("{{\"text\": \"{word}\"}}\n{{\"text\": \"short enough\"}}");
    let chat = format!(r#"{{"instruction": "Say it", "output": "{}"}}"#, &word[..7 << 20]);
    let begun = std::time::Instant::now();
    let found = bench.refusal(&text, "max_length: 16");
    assert!(
        found.starts_with(": line 1: 8388608 bytes of text, far longer than `max_length` 16"),
        "{found}"
    );
    let dropped = bench.load(&text, "max_length: 16\nover_length: drop").unwrap().stats;
    assert_eq!((dropped.rows, dropped.dropped), (1, 1));
    let cut = bench.load(&text, "max_length: 16\nover_length: truncate").unwrap();
    assert_eq!((cut.stats.rows, cut.stats.truncated), (2, 1));
    assert_eq!(rows(&cut)[0].input_ids.len(), 16);
    let cut = bench.load(&chat, "max_length: 64\nover_length: truncate").unwrap();
    assert_eq!((rows(&cut)[0].input_ids.len(), cut.stats.truncated), (64, 1));
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn what_is_no_file_is_refused() {
    let bench = Bench::new();
    let refused = |path: std::path::PathBuf| bench.load_files(&[path], "").unwrap_err().to_string();
    assert!(refused(bench.folder.path().into()).ends_with("found a folder, expected a file"));
    assert!(refused("/dev/zero".into()).contains("found a device or pipe"));
    assert!(refused(bench.folder.path().join("none")).contains("none: No such file"));
}

#[test]
fn text_without_a_tokenizer_is_refused_but_tokens_are_not() {
    let bench = Bench::new();
    let load = |text: &str| {
        let path = bench.file("rows.jsonl", text);
        let recipe = "model_name_or_path: base\ndataset_name: rows.jsonl\n";
        let settings = fleetune_shared::Recipe::read(recipe).unwrap().data;
        fleetune_engine::data::Dataset::load(&[path], &settings, None, &spec())
    };
    assert_eq!(load(r#"{"input_ids": [5, 6, 7]}"#).unwrap().stats.supervised, 2);
    assert!(load(GOOD).unwrap_err().to_string().contains("line 1: text needs a tokenizer"));
}

#[test]
fn odd_but_sound_files_are_read() {
    let bench = Bench::new();
    let rows = |bytes: &str| bench.load(bytes, "").unwrap().stats.rows;
    assert_eq!(rows(&format!("\u{FEFF}{GOOD}\r\n\r\n{GOOD}\r\n")), 2, "BOM, CRLF, blank line");
    assert_eq!(rows(&format!("\n  {GOOD}")), 1, "no newline at the end");
    assert_eq!(rows(&format!("\u{FEFF} [{GOOD}\n,{GOOD}]\n")), 2, "array");
    let two = [bench.file("a.jsonl", GOOD), bench.file("b.json", r#"[{"input_ids": [1, 2]}]"#)];
    assert_eq!(bench.load_files(&two, "").unwrap().stats.rows, 2, "layouts by file");
    assert_eq!(bench.load_files(&two, "max_samples: 1").unwrap().stats.rows, 1);
    let broken_later = format!("{GOOD}\nnot read");
    assert_eq!(bench.load(broken_later, "max_samples: 1").unwrap().stats.rows, 1);
}

#[test]
fn long_rows_are_cut_or_dropped_and_counted() {
    let bench = Bench::new();
    let text = r#"{"input_ids": [1, 2, 3, 4, 5]}
{"input_ids": [1, 2, 3]}
{"input_ids": [1, 2, 3, 4, 5, 6], "labels": [-100, -100, -100, -100, 5, 6]}"#;
    let cut = bench.load(text, "max_length: 4\nover_length: truncate").unwrap();
    assert_eq!(rows(&cut)[0].input_ids, [1, 2, 3, 4]);
    assert_eq!(rows(&cut)[0].labels, [1, 2, 3, 4]);
    let stats = cut.stats;
    assert_eq!(
        (stats.rows, stats.truncated, stats.dropped),
        (2, 1, 1),
        "nothing to learn was left of the third"
    );
    assert_eq!((stats.tokens, stats.supervised, stats.longest), (7, 5, 4));
    let dropped = bench.load(text, "max_length: 4\nover_length: drop").unwrap().stats;
    assert_eq!((dropped.rows, dropped.truncated, dropped.dropped), (1, 0, 2));
    let error = bench.refusal(text, "max_length: 2\nover_length: drop");
    assert!(
        error.contains("no row is left to train on (3 read, 3 dropped); raise `max_length`"),
        "{error}"
    );
}
