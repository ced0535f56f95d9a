//! Texts, ids and masks that transformers itself made (`tests/fixtures/chat`, by `shrink.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::ChatTemplate;
use crate::data::conversation::{Conversation, Message};
use crate::data::encode::tokens_of;
use crate::data::tokenizer::{Encoded, Tokenizer};

#[derive(Deserialize)]
struct Chat {
    templates: BTreeMap<String, String>,
    tokenizer: BTreeMap<String, String>,
    conversations: BTreeMap<String, Vec<Value>>,
    tools: Value,
    tool_conversation: Vec<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    text: Option<String>,
    ids: Option<Vec<u32>>,
    assistant_mask: Option<Vec<u8>>,
    error: Option<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat")
}

fn chat() -> Chat {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join("chat.json")).unwrap()).unwrap()
}

struct Bench {
    chat: Chat,
    tokenizers: BTreeMap<String, Tokenizer>,
}

impl Bench {
    fn new() -> Self {
        let load = |name: &str| (name.to_owned(), Tokenizer::load(&fixtures().join(name)).unwrap());
        Self { chat: chat(), tokenizers: BTreeMap::from(["smollm2", "llama3"].map(load)) }
    }

    fn tokenizer(&self, template: &str) -> &Tokenizer {
        &self.tokenizers[&self.chat.tokenizer[template]]
    }

    fn template(&self, name: &str) -> ChatTemplate {
        // The reference was made on this day; our own renderings know no day.
        let today = "{%- set date_string = \"24 Nov 2026\" %}";
        let source = today.to_owned() + &self.chat.templates[name];
        let names = self.tokenizer(name).template_names();
        ChatTemplate::compile(&source, Path::new(name), names).unwrap()
    }

    fn conversation(&self, name: &str) -> Conversation {
        let (values, tools) = match name {
            "tools" => (&self.chat.tool_conversation, Some(self.chat.tools.clone())),
            name => (&self.chat.conversations[name], None),
        };
        let messages = values.iter().map(|value| Message::read(value).unwrap()).collect();
        Conversation { tools, ..Conversation::new(messages).unwrap() }
    }
}

fn mask(encoded: &Encoded, spans: &[std::ops::Range<usize>]) -> Vec<u8> {
    let mut mask = vec![0; encoded.ids.len()];
    for span in spans {
        mask[tokens_of(encoded, span)].fill(1);
    }
    mask
}

#[test]
fn text_ids_and_masks_are_those_of_transformers() {
    let bench = Bench::new();
    let (mut compared, mut masks, mut refused) = (0, 0, 0);
    for case in &bench.chat.cases {
        let what = format!("{} × {}", case.template, case.conversation);
        let tokenizer = bench.tokenizer(&case.template);
        let template = bench.template(&case.template);
        let conversation = bench.conversation(&case.conversation);
        let shielded = super::Shielded::new(&conversation, tokenizer);
        let rendered =
            template.render(&shielded, shielded.messages.len(), case.add_generation_prompt);
        if let Some(error) = &case.error {
            let ours = rendered.unwrap_err().to_string();
            let theirs = error.trim_start_matches("TemplateError('").trim_end_matches("')");
            assert!(ours.contains(theirs), "{what}: {ours}");
            refused += 1;
            continue;
        }
        let (text, spans) = rendered.unwrap_or_else(|e| panic!("{what}: {e}"));
        let guarded = super::Guarded { text, pairs: shielded.pairs };
        assert_eq!(&guarded.plain(), case.text.as_ref().unwrap(), "{what}");
        if case.conversation == "special_in_text" {
            continue; // Transformers lets a message's `<|im_end|>` end the turn; ours stays text.
        }
        let encoded = tokenizer.encode_guarded(&guarded).unwrap();
        assert_eq!(&encoded.ids, case.ids.as_ref().unwrap(), "{what}");
        compared += 1;
        if let Some(reference) = &case.assistant_mask {
            assert_eq!(&mask(&encoded, &spans), reference, "{what}");
            masks += 1;
        }
    }
    assert_eq!((compared, masks, refused), (180, 90, 2));
}

/// Templates without `{% generation %}` locate turns by prefixes; their twins with it say where turns truly are.
#[test]
fn turns_are_located_where_the_generation_tag_would_put_them() {
    let bench = Bench::new();
    let mut located = 0;
    for (plain, marked) in [
        ("smollm2", "smollm2_gen"),
        ("llama3", "llama3_training"),
        ("gemma3", "gemma3_training"),
        ("phi3", "phi3_training"),
    ] {
        for name in bench.chat.conversations.keys() {
            let conversation = bench.conversation(name);
            let tokenizer = bench.tokenizer(plain);
            let spans =
                |template: &str| bench.template(template).spans(&conversation, tokenizer, 0);
            let (ours, theirs) = (spans(plain).unwrap(), spans(marked).unwrap());
            assert_eq!(ours.guarded, theirs.guarded);
            assert_eq!(ours.spans.len(), theirs.spans.len(), "{plain} × {name}");
            for (ours, theirs) in ours.spans.iter().zip(&theirs.spans) {
                assert_eq!(ours.start, theirs.start, "{plain} × {name}");
                assert!(ours.end >= theirs.end, "{plain} × {name}");
                located += 1;
            }
        }
    }
    assert!(located > 40, "{located}");
}

/// Qwen3's own template takes reasoning out of earlier turns, so only the last turn is what it was.
#[test]
fn a_template_that_rewrites_history_is_found_out() {
    let bench = Bench::new();
    let spans = |name: &str| {
        let (conversation, tokenizer) = (bench.conversation(name), bench.tokenizer("qwen3"));
        bench.template("qwen3").spans(&conversation, tokenizer, 0)
    };
    let one = spans("single").unwrap();
    assert_eq!(
        &one.guarded.text[one.spans[0].clone()],
        "<think>\n\n</think>\n\nParis.<|im_end|>\n"
    );
    let several = spans("multi").unwrap();
    let learned: Vec<_> =
        several.spans.iter().map(|span| &several.guarded.text[span.clone()]).collect();
    assert_eq!(learned.len(), 1);
    assert!(learned[0].starts_with("<think>\n\n</think>\n\nYou're welcome."), "{learned:?}");
    assert_eq!(several.lost, [2, 4]);
}

/// Our templates write what those of their families write, turn for turn.
#[test]
fn built_in_templates_render_as_their_families_do() {
    let bench = Bench::new();
    let mut compared = 0;
    for (ours, theirs, marked) in [
        ("chatml", "chatml", "chatml"),
        ("llama-3", "llama3", "llama3_training"),
        ("gemma", "gemma3", "gemma3_training"),
        ("phi-3", "phi3", "phi3_training"),
        ("qwen", "qwen2_5", "qwen2_5"),
    ] {
        let tokenizer = bench.tokenizer(theirs);
        let source = super::named(ours).unwrap();
        let template =
            ChatTemplate::compile(source, Path::new(ours), tokenizer.template_names()).unwrap();
        let cases = bench.chat.cases.iter().filter(|case| case.template == theirs);
        for case in cases {
            // Neither Gemma's nor Phi-3's family knows tools; theirs lose the call without a word.
            if case.conversation == "tools" && ["gemma", "phi-3"].contains(&ours) {
                continue;
            }
            let conversation = bench.conversation(&case.conversation);
            let shielded = super::Shielded::new(&conversation, tokenizer);
            let (text, _) = template
                .render(&shielded, shielded.messages.len(), case.add_generation_prompt)
                .unwrap();
            let guarded = super::Guarded { text, pairs: shielded.pairs };
            assert_eq!(&guarded.plain(), case.text.as_ref().unwrap(), "{ours}");
            compared += 1;
        }
        for name in ["single", "system", "multi", "unicode", "whitespace", "code"] {
            let conversation = bench.conversation(name);
            let ours = template.spans(&conversation, tokenizer, 0).unwrap();
            let theirs = bench.template(marked).spans(&conversation, tokenizer, 0).unwrap();
            assert_eq!(ours.spans.len(), theirs.spans.len());
            for (ours, theirs) in ours.spans.iter().zip(&theirs.spans) {
                assert!(ours.start == theirs.start && ours.end >= theirs.end, "{name}");
            }
        }
    }
    assert_eq!(compared, 68);
}

#[test]
fn built_in_templates_without_a_reference_render_as_documented() {
    let names =
        [("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
    let bench = Bench::new();
    let tokenizer = bench.tokenizer("smollm2");
    let turns = [
        ("system", "Terse."),
        ("user", "1+1?"),
        ("assistant", "2"),
        ("user", "Sure?"),
        ("assistant", "Yes."),
    ];
    let turn = |(role, content): &(&str, &str)| {
        Message::read(&serde_json::json!({"role": role, "content": content})).unwrap()
    };
    let conversation = Conversation::new(turns.iter().map(turn).collect()).unwrap();
    for (name, expected, learned) in [
        (
            "mistral",
            "<s>[INST] Terse.\n\n1+1?[/INST] 2</s>[INST] Sure?[/INST] Yes.</s>",
            [" 2</s>", " Yes.</s>"],
        ),
        (
            "zephyr",
            "<|system|>\nTerse.</s>\n<|user|>\n1+1?</s>\n<|assistant|>\n2</s>\n<|user|>\nSure?</s>\n<|assistant|>\nYes.</s>\n",
            ["2</s>\n", "Yes.</s>\n"],
        ),
        (
            "alpaca",
            "Terse.\n\n### Instruction:\n1+1?\n\n### Response:\n2</s>\n\n### Instruction:\nSure?\n\n### Response:\nYes.</s>\n\n",
            ["2</s>\n\n", "Yes.</s>\n\n"],
        ),
    ] {
        let source = super::named(name).unwrap();
        let template = ChatTemplate::compile(source, Path::new(name), &names).unwrap();
        let rendered = template.spans(&conversation, tokenizer, 0).unwrap();
        assert_eq!(rendered.guarded.plain(), expected);
        let spans: Vec<_> =
            rendered.spans.iter().map(|s| &rendered.guarded.text[s.clone()]).collect();
        assert_eq!(spans, learned, "{name}");
    }
}
