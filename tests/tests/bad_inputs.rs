//! Bad recipes, data sets and models through the command line: each answer names the place and the way out, and nothing
//! is written.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fleetune_tests::{demo_asset, fixture};
use serde_json::{Map, Value, json};

/// What is wrong, how to make it so, and what the answer has to say.
struct Case {
    wrong: &'static str,
    /// Appended to the recipe.
    recipe: &'static str,
    /// The data file's bytes; the demo's when empty.
    data: &'static [u8],
    /// Done to a copy of the model's folder.
    spoil: fn(&Path),
    says: &'static [&'static str],
}

const SOUND: Case = Case { wrong: "", recipe: "", data: b"", spoil: |_| (), says: &[] };

const ROW: &str =
    r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;

fn cut_weights(model: &Path) {
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("half of them");
}

fn other_shape(model: &Path) {
    let path = model.join("config.json");
    let text = fs::read_to_string(&path).expect("a configuration");
    fs::write(path, text.replace("\"intermediate_size\": 352", "\"intermediate_size\": 384"))
        .expect("another");
}

fn pickle_only(model: &Path) {
    fs::rename(model.join("model.safetensors"), model.join("pytorch_model.bin")).expect("renamed");
}

fn bad_heads(model: &Path) {
    let path = model.join("config.json");
    let text = fs::read_to_string(&path).expect("a configuration");
    fs::write(path, text.replace("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"))
        .expect("another");
}

fn looping_template(model: &Path) {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    fs::write(model.join("chat_template.jinja"), endless).expect("a template");
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            wrong: "an unknown key",
            recipe: "lerning_rate: 1e-4",
            says: &["lerning_rate", "learning_rate"],
            ..SOUND
        },
        Case {
            wrong: "a rate of zero",
            recipe: "learning_rate: 0",
            says: &["`learning_rate` is 0", "expected 1e-12 to 10"],
            ..SOUND
        },
        Case {
            wrong: "an unknown module",
            recipe: "target_modules: [query]",
            says: &["`target_modules` is query", "q_proj"],
            ..SOUND
        },
        Case {
            wrong: "a length above the model's",
            recipe: "max_length: 4096",
            says: &["`max_length` is 4096", "256"],
            ..SOUND
        },
        Case {
            wrong: "a rank above the model's width",
            recipe: "r: 512",
            says: &["`r` is 512", "128"],
            ..SOUND
        },
        Case { wrong: "an empty data file", data: b"\n", says: &["data.jsonl"], ..SOUND },
        Case {
            wrong: "a cut last line",
            data: b"{\"messages\":[{\"role\":\"user\"",
            says: &["data.jsonl", "1"],
            ..SOUND
        },
        Case {
            wrong: "text that is not UTF-8",
            data: b"{\"text\":\"\xff\"}\n",
            says: &["data.jsonl", "UTF-8"],
            ..SOUND
        },
        Case {
            wrong: "columns nobody knows",
            data: b"{\"question\":\"a\",\"reply\":\"b\"}\n",
            says: &["question", "reply"],
            ..SOUND
        },
        Case {
            wrong: "an answer that is missing",
            data: br#"{"messages":[{"role":"user","content":"a"}]}"#,
            says: &["data.jsonl", "1"],
            ..SOUND
        },
        Case {
            wrong: "rows longer than allowed",
            recipe: "max_length: 8",
            says: &["max_length", "over_length"],
            ..SOUND
        },
        Case {
            wrong: "weights cut in half",
            spoil: cut_weights,
            says: &["model.safetensors"],
            ..SOUND
        },
        Case {
            wrong: "a shape unlike the configuration",
            spoil: other_shape,
            says: &["gate_proj", "352", "384"],
            ..SOUND
        },
        Case {
            wrong: "heads that do not divide",
            spoil: bad_heads,
            says: &["num_key_value_heads", "3"],
            ..SOUND
        },
        Case {
            wrong: "pickled weights only",
            spoil: pickle_only,
            says: &["pickled", "safe_serialization"],
            ..SOUND
        },
        Case {
            wrong: "a template that does not end",
            spoil: looping_template,
            says: &["template"],
            ..SOUND
        },
    ]
}

#[test]
fn each_answer_names_the_place_and_the_way_out() {
    for case in cases() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        copy(&demo_asset("model"), &model);
        (case.spoil)(&model);
        let data = folder.path().join("data.jsonl");
        fs::write(&data, if case.data.is_empty() { ROW.as_bytes() } else { case.data })
            .expect("data");
        let recipe = folder.path().join("recipe.yaml");
        let text = format!(
            "model_name_or_path: model\ndataset_name: data.jsonl\nmax_steps: 1\n{}\n",
            case.recipe
        );
        fs::write(&recipe, text).expect("a recipe");

        let out = folder.path().join("out");
        let run = |mode: &str| {
            Command::new(env!("CARGO_BIN_EXE_fleetune-under-test"))
                .args(["--output", mode, "train", "recipe.yaml", "--out", "out"])
                .current_dir(folder.path())
                .output()
                .expect("the program runs")
        };
        let output = run("table");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        eprintln!("── {}\n{said}", case.wrong);
        assert!(!output.status.success(), "{} was accepted", case.wrong);
        assert!(said.contains("error: "), "{}: {said}", case.wrong);
        for part in case.says {
            assert!(said.contains(part), "{}: `{part}` is missing from: {said}", case.wrong);
        }
        assert!(!out.join("adapter_model.safetensors").exists(), "{} left a result", case.wrong);

        let json: Value = serde_json::from_slice(&run("json").stdout).expect("JSON on stdout");
        assert!(json["error"]["message"].is_string(), "{}: {json}", case.wrong);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for file in fs::read_dir(from).expect("what is copied").flatten() {
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

/// What a command below may hold, and what a file asks for: well formed, empty on disk, and far too large.
const GRANTED_KIB: &str = "262144";
const NUMBERS: u64 = 1 << 30;

/// Stretches the tensors whose names hold `part` along `axis` to [`NUMBERS`] numbers each. Every number becomes a
/// zero, which takes no room in a file.
fn stretch(path: &Path, part: &str, axis: usize) -> u64 {
    let bytes = fs::read(path).expect("a file of tensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Map<String, Value> =
        serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let (mut at, mut side) = (0, 0);
    for (name, entry) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        let mut shape: Vec<u64> = serde_json::from_value(entry["shape"].clone()).expect("numbers");
        if name.contains(part) {
            side = NUMBERS / shape[1 - axis];
            shape[axis] = side;
        }
        let width = if entry["dtype"] == "F32" { 4 } else { 2 };
        let end = at + shape.iter().product::<u64>() * width;
        entry["shape"] = json!(shape);
        entry["data_offsets"] = json!([at, end]);
        at = end;
    }
    let text = serde_json::to_vec(&header).expect("JSON");
    let mut file = File::create(path).expect("another file");
    file.write_all(&(text.len() as u64).to_le_bytes()).expect("its length");
    file.write_all(&text).expect("its header");
    file.set_len(8 + text.len() as u64 + at).expect("its zeros");
    side
}

#[test]
fn a_file_that_asks_for_absurd_memory_ends_its_command_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    copy(&demo_asset("model"), &at("model"));
    copy(&demo_asset("model"), &at("vast-model"));
    let rows = stretch(&at("vast-model/model.safetensors"), "embed_tokens", 0);
    let config = at("vast-model/config.json");
    let text = fs::read_to_string(&config).expect("a configuration");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    value["vocab_size"] = json!(rows);
    fs::write(&config, value.to_string()).expect("another");
    copy(&fixture("adapters/rslora"), &at("vast-adapter"));
    stretch(&at("vast-adapter/adapter_model.safetensors"), "lora_A", 1);
    let part = "- model: vast-model\n  parameters: {weight: 0.5}\n";
    fs::write(at("merge.yaml"), format!("merge_method: linear\nmodels:\n{part}{part}"))
        .expect("a merge file");

    for line in [
        "generate --model vast-model hello",
        "generate --model model --adapter vast-adapter hello",
        "merge --base model --adapter vast-adapter --out out",
        "merge-models merge.yaml --out out",
        "export vast-model --gguf out/model.gguf",
        "export vast-adapter --base model --gguf out/adapter.gguf",
        "adapters show vast-adapter",
        "adapters combine vast-adapter vast-adapter --out out",
    ] {
        let began = Instant::now();
        let output = Command::new("sh")
            .args(["-c", &format!("ulimit -d {GRANTED_KIB} && exec \"$0\" --output json {line}")])
            .arg(env!("CARGO_BIN_EXE_fleetune-under-test"))
            .current_dir(folder.path())
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
        assert_eq!(json["error"]["code"], "out_of_memory", "{line}: {json}, {said}");
        assert!(began.elapsed() < Duration::from_secs(5), "{line}: {:?}", began.elapsed());
        let left = |file: &str| at("out").join(file).exists();
        assert!(!left("report.json") && !left("model.gguf") && !left("adapter.gguf"), "{line}");
    }
}
