//! Layouts beyond question and answer: tools, reasoning, turns that are excepted, plain text, packed rows.

use serde_json::{Value, json};

use crate::bench::{Bench, rows};

fn row(value: Value) -> String {
    value.to_string()
}

/// A call of a tool and its answer, as ShareGPT, OpenAI and transformers write them.
fn tool_rows() -> [Value; 3] {
    let weather = json!({"name": "weather", "description": "Today's", "parameters": {}});
    let call = json!({"name": "weather", "arguments": {"city": "Paris"}});
    let turns = |call: Value| {
        json!([
            {"role": "user", "content": "Warm?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "18C"},
            {"role": "assistant", "content": "Mild."},
        ])
    };
    [
        json!({
            "conversations": [
                {"from": "human", "value": "Warm?"},
                {"from": "function_call", "value": call.to_string()},
                {"from": "observation", "value": "18C"},
                {"from": "gpt", "value": "Mild."},
            ],
            "tools": json!([weather]).to_string(),
        }),
        json!({
            "messages": turns(json!({"type": "function", "function": call})),
            "tools": [{"type": "function", "function": weather}],
        }),
        json!({
            "messages": turns(json!({"id": "1", "type": "function", "function":
                {"name": "weather", "arguments": "{\"city\": \"Paris\"}"}})),
            "tools": [weather.to_string()],
        }),
    ]
}

#[test]
fn calls_of_tools_are_learned_and_their_answers_are_not() {
    let mut bench = Bench::new();
    bench.tokenizer.use_builtin_template("qwen").unwrap();
    for value in tool_rows() {
        let preview = bench.preview(&row(value), "");
        let (system, turns) = preview[0].split_once("<|im_start|>user\nWarm?").unwrap();
        assert!(
            system.contains(
                r#"<tools>
{"type": "function", "function": {"name": "weather", "description": "Today's", "parameters": {}}}
</tools>"#
            ),
            "{system}"
        );
        assert_eq!(
            turns,
            "<|im_end|>\n<|im_start|>assistant\n[<tool_call>\n{\"name\": \"weather\", \"arguments\": \
             {\"city\": \"Paris\"}}\n</tool_call><|im_end|>\n]<|im_start|>user\n<tool_response>\n18C\n\
             </tool_response><|im_end|>\n<|im_start|>assistant\n[Mild.<|im_end|>\n]"
        );
    }
}

#[test]
fn what_a_template_knows_nothing_of_is_not_lost_silently() {
    let plain = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}";
    let bench = Bench::with_template(plain);
    let refused = |value: Value| bench.load(row(value), "").unwrap_err().to_string();
    let [_, mut tools, _] = tool_rows();
    let error = refused(tools.clone());
    assert!(error.contains("drops the tool `weather`") && error.contains("qwen"), "{error}");
    tools["tools"] = Value::Null;
    let error = refused(tools);
    assert!(error.contains("drops what the assistant calls in message 2"), "{error}");
    let error = refused(json!({"messages": [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "reasoning_content": "Sum.", "content": "2"},
    ]}));
    assert!(error.contains("drops the reasoning of message 2"), "{error}");
}

#[test]
fn reasoning_is_found_under_any_of_its_names() {
    for (theirs, templates) in
        [("thinking", "reasoning_content"), ("reasoning_content", "thinking")]
    {
        let source = format!(
            "{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\n' }}}}{{% if m.{templates} %}}\
             {{{{ '<think>' + m.{templates} + '</think>' }}}}{{% endif %}}{{{{ m.content + '<|im_end|>' }}}}{{% endfor %}}\
             {{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
        );
        let bench = Bench::with_template(&source);
        let value = json!({"messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", theirs: "Sum.", "content": "2"},
        ]});
        assert_eq!(
            bench.preview(&row(value), ""),
            [
                "<|im_start|>user\n1+1?<|im_end|><|im_start|>assistant\n[<think>Sum.</think>2<|im_end|>]"
            ]
        );
    }
}

#[test]
fn a_row_can_except_turns_from_learning() {
    let marked = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}\
        {% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}\
        {% endif %}{{ '\n' }}{% endfor %}";
    for bench in [Bench::new(), Bench::with_template(marked)] {
        for (key, off, on) in [
            ("weight", json!(0), json!(1)),
            ("train", json!(false), json!(true)),
            ("training", json!(false), Value::Null),
        ] {
            let value = json!({"messages": [
                {"role": "user", "content": "1+1?"},
                {"role": "assistant", "content": "3", key: off},
                {"role": "user", "content": "Sure?", key: off},
                {"role": "assistant", "content": "No, 2.", key: on},
            ]});
            let preview = bench.preview(&row(value), "").remove(0);
            let learned: Vec<_> = preview.split('[').skip(1).collect();
            assert_eq!(learned.len(), 1, "{preview}");
            assert!(learned[0].starts_with("No, 2.<|im_end|>"), "{preview}");
            assert!(preview.contains("assistant\n3<|im_end|>"), "{preview}");
        }
    }
    let bench = Bench::new();
    let refused = |turn: Value| {
        let turns = [json!({"role": "user", "content": "a"}), turn];
        bench.refusal(row(json!({"messages": turns})), "")
    };
    let half = refused(json!({"role": "assistant", "content": "b", "weight": 0.5}));
    assert!(half.contains("`messages[1]` has `weight` `0.5`, expected 0, 1"), "{half}");
    let all = refused(json!({"role": "assistant", "content": "b", "train": false}));
    assert!(all.contains("nothing to learn"), "{all}");
    let user = row(json!({"messages": [{"role": "user", "content": "a", "train": true}]}));
    let user = bench.refusal(user, "");
    assert!(user.contains("`messages[0]` is by `user` and to be learned"), "{user}");
}

#[test]
fn calls_and_tools_that_make_no_sense_are_refused_by_place() {
    let bench = Bench::new();
    let sharegpt = |value: &str| json!({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": value}]});
    let calls = |calls: Value| json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": calls}]});
    let tools = |tools: Value| json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": tools});
    for (value, expected) in [
        (sharegpt("weather()"), "`conversations[1]` is a function call that is no JSON"),
        (sharegpt("{}"), "`conversations[1]` is a function call without a `name`: `{}`"),
        (calls(json!({})), "`messages[1]` has `tool_calls` `{}`, expected a list"),
        (calls(json!([{"function": {}}])), "has a `tool_calls[0]` without the name"),
        (calls(json!([7])), "has a `tool_calls[0]` without the name"),
        (
            calls(json!([{"function": {"name": "f", "arguments": "{"}}])),
            "`tool_calls[0]` with arguments that are no JSON",
        ),
        (tools(json!("[")), "column `tools`: EOF"),
        (tools(json!({"name": "f"})), "column `tools` is `{\"name\":\"f\"}`, expected a list"),
        (tools(json!([{}])), "`tools[0]` is `{}`, expected an object with `name` or `function`"),
    ] {
        let found = bench.refusal(row(value), "");
        assert!(found.starts_with(": line 1: ") && found.contains(expected), "{found}");
    }
}

#[test]
fn plain_text_is_learned_whole_with_the_end_that_belongs_to_it() {
    let bench = Bench::new();
    let text = |text: &str| row(json!({"text": text}));
    assert_eq!(bench.preview(&text("The capital"), ""), ["The[ capital<|im_end|>]"]);
    // A text that was rendered elsewhere brings its control tokens, and its own end.
    let rendered = bench.load(text("<|im_start|>user\nHi<|im_end|>"), "").unwrap();
    let ids = rows(&rendered).remove(0).input_ids;
    assert_eq!((ids[0], ids.iter().filter(|id| **id == 2).count()), (1, 1));
    let named = row(json!({"body": "The capital", "text": 7}));
    assert_eq!(bench.preview(&named, "dataset_text_field: body"), ["The[ capital<|im_end|>]"]);
    let missing = bench.refusal(named, "dataset_format: text\ndataset_text_field: page");
    assert!(missing.contains("column `page` is missing; found `body`, `text`"), "{missing}");
}

#[test]
fn the_end_of_a_long_row_can_be_what_stays() {
    let bench = Bench::new();
    let text = r#"{"input_ids": [1, 2, 3, 4, 5]}"#;
    let keys = "max_length: 3\nover_length: truncate\ntruncation_mode: keep_end";
    assert_eq!(rows(&bench.load(text, keys).unwrap())[0].input_ids, [3, 4, 5]);
}

#[test]
fn a_recipe_packs_rows_into_bins() {
    let bench = Bench::new();
    let lengths = [3, 6, 2, 4];
    let lines: Vec<String> = lengths
        .iter()
        .map(|n| json!({"input_ids": (10..10 + n).collect::<Vec<u32>>()}).to_string())
        .collect();
    let bins = |text: &str, keys: &str| -> Vec<Vec<usize>> {
        let data = bench.load(text, keys).unwrap();
        data.iter().map(|rows| rows.unwrap().iter().map(|r| r.input_ids.len()).collect()).collect()
    };
    let text = lines.join("\n");
    assert_eq!(bins(&text, "max_length: 8\npacking: true"), [vec![6, 2], vec![4, 3]]);
    let wrapped = "max_length: 8\npacking: true\npacking_strategy: wrapped";
    assert_eq!(bins(&text, wrapped), [vec![3, 5], vec![1, 2, 4]]);
    // Only a strategy that splits takes rows longer than a bin.
    let long = r#"{"input_ids": [1, 2, 3, 4, 5]}"#;
    let split = "max_length: 3\npacking: true\npacking_strategy: bfd_split";
    assert_eq!(bins(long, split), [[3], [2]]);
    assert!(
        bench.refusal(long, "max_length: 3\npacking: true").contains("longer than `max_length` 3")
    );
}

#[test]
fn a_template_can_be_one_of_ours_by_name() {
    let mut bench = Bench::new();
    let error = bench.tokenizer.use_builtin_template("vicuna").unwrap_err().to_string();
    assert!(
        error.contains("`chat_template` is vicuna, expected one of chatml, llama-3"),
        "{error}"
    );
    bench.tokenizer.use_builtin_template("zephyr").unwrap();
    let value = json!({"instruction": "Add", "input": "1+1", "output": "2"});
    assert_eq!(
        bench.preview(&row(value), ""),
        ["<|user|>\nAdd\n\n1+1<|im_end|>\n<|assistant|>\n[2<|im_end|>\n]"]
    );
}
