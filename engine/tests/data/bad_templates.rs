//! Templates that refuse, loop, repeat, or lose what the assistant says.

use fleetune_engine::data::{ChatTemplate, Conversation, Message, Role};

use crate::bench::Bench;

const ROW: &str = r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "Answer"}]}"#;

#[test]
fn bad_templates_are_found_out() {
    let turns = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
    for (what, source, expected) in [
        ("does not compile", "{% for m in messages %}", "template.jinja: chat template line 1: "),
        (
            "unknown function",
            "{{ strftime_now('%Y') }}",
            "chat template line 1: strftime_now is unknown",
        ),
        (
            "refuses",
            "{{ raise_exception('only users') }}",
            "it refuses this conversation: only users",
        ),
        (
            "loops",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "it loops for too long",
        ),
        ("recurses", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit"),
        (
            "writes 100 MB",
            "{% for i in range(1000) %}{{ 'a' * 100000 }}{% endfor %}",
            "writes more than 8 MiB",
        ),
        (
            "doubles a text",
            "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(40) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
            "it loops for too long",
        ),
        ("reads files", "{% include '/etc/passwd' %}", "chat template line 1: "),
        (
            "drops the answer",
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "message 2, by the assistant, cannot be located: the template drops it",
        ),
        (
            "hides the answer",
            "{% for m in messages %}{{ m.role + eos_token }}{% endfor %}",
            "drops what the assistant says in message 2",
        ),
        (
            "marks nothing",
            "{% generation %}{% endgeneration %}{% for m in messages %}{{ m.content }}{% endfor %}",
            "drops what the assistant says",
        ),
        (
            "marks too little",
            "{% for m in messages %}{% if false %}{% generation %}{% endgeneration %}{% endif %}{{ m.content }}{% endfor %}",
            "writes 0 {% generation %} blocks for 1 assistant turns",
        ),
        (
            "never stops",
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            "ends without a special token, so the model would not learn to stop",
        ),
        (
            "rewrites the prompt",
            &format!("{{{{ messages | length }}}}{turns}"),
            "cannot be located: what stands before it is rendered differently",
        ),
    ] {
        let found = Bench::with_template(source).load(ROW, "").unwrap_err().to_string();
        assert!(found.contains(expected), "{what}: {found}");
        assert!(found.contains("template.jinja") || found.contains("line 1"), "{what}: {found}");
    }
    Bench::with_template(turns).load(ROW, "").unwrap();
}

#[test]
fn a_lost_answer_is_found_even_when_everything_is_learned() {
    let bench = Bench::with_template(
        "{% for m in messages if m.role == 'user' %}{{ m.content + eos_token }}{% endfor %}",
    );
    let error = bench.load(ROW, "assistant_only_loss: false").unwrap_err().to_string();
    assert!(error.contains("drops what the assistant says in message 2"), "{error}");
}

#[test]
fn a_conversation_without_a_template_says_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let source = crate::bench::fixtures().join("smollm2/tokenizer.json");
    std::fs::copy(source, folder.path().join("tokenizer.json")).unwrap();
    let bench =
        Bench { tokenizer: fleetune_engine::data::Tokenizer::load(folder.path()).unwrap(), folder };
    let error = bench.load(ROW, "").unwrap_err().to_string();
    assert!(
        error.contains("needs a chat template") && error.contains("chat_template_path"),
        "{error}"
    );
    // Without tokenizer_config.json nothing says which token ends a text.
    let error = bench.load(r#"{"prompt": "a", "completion": "b"}"#, "").unwrap_err().to_string();
    assert!(error.contains("no end-of-sequence token") && error.contains("eos_token"), "{error}");
}

#[test]
fn a_template_sees_the_text_it_expects() {
    let source = "{% for m in messages %}{% if m.content.startswith('<|im_end|>') %}guard{% endif %}\
        {{ m.content | length }} {{ m.content | trim }} {{ m | tojson }}{{ eos_token }}{% endfor %}";
    let bench = Bench::with_template(source);
    let template = ChatTemplate::of(&bench.tokenizer).unwrap().unwrap();
    let question = Conversation::new(vec![Message::new(Role::User, " <|im_end|>")]).unwrap();
    let ids = template.prompt(&question, &bench.tokenizer).unwrap();
    let text = bench.tokenizer.decode(&ids).unwrap();
    assert_eq!(text, "11 <|im_end|> {\"role\": \"user\", \"content\": \" <|im_end|>\"}<|im_end|>");
    assert_eq!(ids.iter().filter(|id| **id == 2).count(), 1);
}
