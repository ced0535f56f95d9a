//! Tokenizers that are missing, damaged, or do not belong to the model.

use std::fs;
use std::path::Path;

use fleetune_engine::data::Tokenizer;
use serde_json::{Value, json};

use crate::bench::{fixtures, spec};

/// A copy of the good tokenizer with some of its JSON changed.
fn changed(folder: &Path, change: impl FnOnce(&mut Value)) -> fleetune_engine::Result<Tokenizer> {
    let text = fs::read_to_string(fixtures().join("smollm2/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::load(folder)
}

#[test]
fn damaged_tokenizers_are_refused_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |error: fleetune_engine::EngineError| error.to_string();
    let message = at(Tokenizer::load(folder.path()).unwrap_err());
    assert!(message.contains("no tokenizer.json"), "{message}");
    fs::write(folder.path().join("tokenizer.json"), "{\"model\": 3").unwrap();
    let message = at(Tokenizer::load(folder.path()).unwrap_err());
    assert!(message.contains("tokenizer.json: tokenizer: "), "{message}");
    let message = at(changed(folder.path(), |json| json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": false})).unwrap_err());
    assert!(message.contains("tokenizer.json: tokenizer: "), "{message}");
    changed(folder.path(), |_| ()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), "{eos").unwrap();
    let message = at(Tokenizer::load(folder.path()).unwrap_err());
    assert!(message.contains("tokenizer_config.json: "), "{message}");
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let large =
        changed(folder.path(), |json| json["model"]["vocab"]["extra"] = json!(49_152)).unwrap();
    let message = large.check_fits(&spec()).unwrap_err().to_string();
    assert!(message.contains("49153 tokens but the model's embedding has 49152 rows"), "{message}");
}

/// With another regex engine this expression ends the process.
#[test]
fn a_catastrophic_expression_ends_in_bounded_time() {
    let folder = tempfile::tempdir().unwrap();
    let split = json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let both = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    let tokenizer = changed(folder.path(), |json| json["pre_tokenizer"] = both).unwrap();
    let text = "a".repeat(5_000) + "!";
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
}

#[test]
fn padding_and_truncation_of_the_file_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = changed(folder.path(), |json| {
        json["padding"] = json!({"strategy": {"Fixed": 4_000_000_000u64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
        json["truncation"] = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    }).unwrap();
    assert_eq!(tokenizer.encode("1+1?").unwrap().len(), 4);
}

#[test]
fn a_bos_the_post_processor_adds_begins_plain_text_only() {
    let folder = tempfile::tempdir().unwrap();
    let special =
        json!({"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}});
    let single = json!([{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let processor = json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special});
    let tokenizer = changed(folder.path(), |json| json["post_processor"] = processor).unwrap();
    assert_eq!(tokenizer.prefix_ids(), [1]);
    assert!(!tokenizer.encode("Hi").unwrap().contains(&1));
}

/// A GGUF file without tensors: keys with texts, numbers, flags, or lists.
enum Key<'a> {
    Text(&'a str),
    Texts(&'a [&'a str]),
    Numbers(&'a [i32]),
    Number(u32),
    Flag(bool),
}

fn gguf(keys: &[(&str, Key<'_>)]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        let list = |out: &mut Vec<u8>, code: u32, length: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(code.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        };
        match value {
            Key::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, value);
            }
            Key::Texts(values) => {
                list(&mut out, 8, values.len());
                values.iter().for_each(|value| text(&mut out, value));
            }
            Key::Numbers(values) => {
                list(&mut out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Key::Number(value) => {
                out.extend(4u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Key::Flag(value) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*value));
            }
        }
    }
    out
}

#[test]
fn gguf_tokenizers_are_read_or_refused_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let load = |model: &str, pre: &str, merges: &[&str]| {
        let path = folder.path().join("model.gguf");
        let tokens = ["<s>", "<think>", "a", "b", "ab", "1", "2", "12", "<", "s", ">"];
        let mut kinds = [1; 11];
        (kinds[0], kinds[1]) = (3, 4);
        let bytes = gguf(&[
            ("tokenizer.ggml.model", Key::Text(model)),
            ("tokenizer.ggml.pre", Key::Text(pre)),
            ("tokenizer.ggml.tokens", Key::Texts(&tokens)),
            ("tokenizer.ggml.token_type", Key::Numbers(&kinds)),
            ("tokenizer.ggml.merges", Key::Texts(merges)),
        ]);
        fs::write(&path, bytes).unwrap();
        Tokenizer::load(&path)
    };
    let merges = ["a b", "1 2"];
    // The flavours differ in how they cut numbers; none lets text become a control token.
    for (pre, numbers) in
        [("gpt-2", vec![7]), ("llama-bpe", vec![7]), ("smollm", vec![5, 6]), ("qwen2", vec![5, 6])]
    {
        let tokenizer = load("gpt2", pre, &merges).unwrap();
        assert_eq!(tokenizer.encode("12").unwrap(), numbers, "{pre}");
        assert_eq!(tokenizer.encode("ab<s><think>").unwrap(), [4, 8, 9, 10, 1], "{pre}");
        assert!(tokenizer.is_special(0) && !tokenizer.is_special(1));
    }
    let message =
        |model: &str, pre: &str, merges: &[&str]| load(model, pre, merges).unwrap_err().to_string();
    let found = message("t5", "gpt-2", &merges);
    let expected = "model.gguf: key `tokenizer.ggml.model` is `t5`, expected one of: gpt2, llama";
    assert!(found.contains(expected), "{found}");
    let found = message("llama", "default", &merges);
    assert!(found.contains("key `tokenizer.ggml.scores` is missing"), "{found}");
    let found = message("gpt2", "deepseek-llm", &merges);
    assert!(
        found
            .contains("key `tokenizer.ggml.pre` is `deepseek-llm`, expected one of: gpt-2, smollm"),
        "{found}"
    );
    let found = message("gpt2", "gpt-2", &["ab"]);
    assert!(found.contains("key `tokenizer.ggml.merges` `ab` is no pair"), "{found}");
    let found = message("gpt2", "gpt-2", &["x y"]);
    assert!(found.contains("model.gguf: tokenizer: "), "{found}");
    fs::write(
        folder.path().join("model.gguf"),
        gguf(&[("tokenizer.ggml.model", Key::Text("gpt2"))]),
    )
    .unwrap();
    let found = Tokenizer::load(&folder.path().join("model.gguf")).unwrap_err().to_string();
    assert!(found.contains("key `tokenizer.ggml.tokens` is missing"), "{found}");
}

#[test]
fn a_gguf_tokenizer_reads_the_same_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let tokens = ["<s>", "</s>", "a", "b", "ab", "Ġ"];
    let bytes = gguf(&[
        ("tokenizer.ggml.model", Key::Text("gpt2")),
        ("tokenizer.ggml.pre", Key::Text("llama-bpe")),
        ("tokenizer.ggml.tokens", Key::Texts(&tokens)),
        ("tokenizer.ggml.token_type", Key::Numbers(&[3, 3, 1, 1, 1, 1])),
        ("tokenizer.ggml.merges", Key::Texts(&["a b"])),
        ("tokenizer.ggml.bos_token_id", Key::Number(0)),
        ("tokenizer.ggml.eos_token_id", Key::Number(1)),
        ("tokenizer.ggml.add_bos_token", Key::Flag(true)),
        ("tokenizer.chat_template", Key::Text("{{ messages[0].content }}</s>")),
    ]);
    fs::write(&path, bytes).unwrap();
    let inside = Tokenizer::load(&path).unwrap();
    inside.save(folder.path()).unwrap();
    let beside = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(beside.encode("ab ba</s>").unwrap(), inside.encode("ab ba</s>").unwrap());
    assert_eq!((beside.prefix_ids(), inside.prefix_ids()), (&[0][..], &[0][..]));
    assert_eq!((beside.bos(), beside.eos()), (inside.bos(), inside.eos()));
    assert_eq!(beside.chat_template().unwrap().0, inside.chat_template().unwrap().0);
    assert!(beside.is_special(1) && !beside.is_special(2));
}
