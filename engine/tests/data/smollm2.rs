//! The real SmolLM2-135M-Instruct, where it is at hand: `FLEETUNE_SMOLLM2` or `models/` after `scripts/fetch-smollm2`.

use std::collections::BTreeMap;

use fleetune_engine::data::{ChatTemplate, Conversation, Tokenizer};
use fleetune_engine::generate::{Answerer, End, Settings};

use crate::bench::fixtures;
use crate::places::smollm2;

/// Ids that transformers made with the tokenizer it rebuilds from the same file.
fn reference() -> BTreeMap<String, Vec<u32>> {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join("smollm2.json")).unwrap())
        .unwrap()
}

#[test]
fn the_gguf_tokenizer_gives_transformers_ids() {
    let Some(path) = smollm2() else { return };
    let tokenizer = Tokenizer::load(&path).unwrap();
    let reference = reference();
    let text = tokenizer.decode(&reference["text"]).unwrap();
    assert_eq!(tokenizer.encode(&text).unwrap(), reference["text"]);
    let template = ChatTemplate::of(&tokenizer).unwrap().unwrap();
    let question = Conversation::question("What is the capital of France?");
    assert_eq!(template.prompt(&question, &tokenizer).unwrap(), reference["chat"]);
    assert_eq!((tokenizer.bos().unwrap().id, tokenizer.eos().unwrap().id), (1, 2));
    // The shrunken tokenizer of the other tests is this one, as far as it goes.
    let small = Tokenizer::load(&fixtures().join("smollm2")).unwrap();
    assert_eq!(small.encode("1+1? Paris.").unwrap(), tokenizer.encode("1+1? Paris.").unwrap());
}

#[test]
fn the_model_answers_as_in_transformers() {
    let Some(path) = smollm2() else { return };
    let answerer = Answerer::load(&path, None).unwrap();
    assert_eq!(answerer.stop_ids(), [2]);
    let mut told = String::new();
    let question = Conversation::question("What is the capital of France?");
    let settings = Settings { max_new_tokens: 24, ..Settings::default() };
    let answer = answerer.answer(&question, &settings, |piece| told += piece).unwrap();
    assert_eq!(answer.text, "The capital of France is Paris.");
    assert_eq!(answer.ids, [504, 3575, 282, 4649, 314, 7042, 30, 2]);
    assert_eq!((told, answer.end), (answer.text, End::Stop));
}
