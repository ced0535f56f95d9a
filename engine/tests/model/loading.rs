//! Models that load, and damaged ones that must be refused in words: file, tensor, found, expected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fleetune_engine::model::{Model, WeightFiles, files_of, save, spec_of};
use fleetune_shared::ModelSpec;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::parity::MODELS;
use crate::{fixture, max_abs};

/// A copy of the tiny model, to be broken.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(fixture("models/tiny-llama")).unwrap() {
            let from = entry.unwrap().path();
            // Read and written, since the fixtures may be read-only.
            fs::write(folder.path().join(from.file_name().unwrap()), fs::read(&from).unwrap())
                .unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn remove(self, name: &str) -> Self {
        fs::remove_file(self.file(name)).unwrap();
        self
    }

    fn write(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.file(name), bytes).unwrap();
        self
    }

    fn config(self, key: &str, value: Value) -> Self {
        let mut config: Value =
            serde_json::from_slice(&fs::read(self.file("config.json")).unwrap()).unwrap();
        config[key] = value;
        self.write("config.json", config.to_string())
    }

    /// Lets `change` edit the header and the data of the weights.
    fn weights(self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Self {
        let (mut header, mut data) = split(&fs::read(self.file("model.safetensors")).unwrap());
        change(&mut header, &mut data);
        self.write("model.safetensors", joined(&header.to_string(), &data))
    }

    fn refusal(&self) -> String {
        Model::load(self.path()).map(|_| ()).unwrap_err().to_string()
    }
}

fn split(bytes: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

fn joined(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

const Q: &str = "model.layers.1.self_attn.q_proj.weight";

#[test]
fn damaged_weights_are_named() {
    let number = |data: &mut Vec<u8>, entry: &Value, bits: u32| {
        let at = entry["data_offsets"][0].as_u64().unwrap() as usize + 4;
        data[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    };
    let cases: Vec<(Folder, Vec<&str>)> = vec![
        (
            Folder::new().weights(|header, _| drop(header.as_object_mut().unwrap().remove(Q))),
            vec!["no tensor", Q, "[64, 64]", "needs"],
        ),
        (
            Folder::new().weights(|header, _| header[Q]["shape"] = json!([32, 128])),
            vec!["model.safetensors", Q, "[32, 128]", "[64, 64]"],
        ),
        (
            Folder::new().weights(|header, _| header[Q]["shape"] = json!([64, 63])),
            vec![Q, "not its size"],
        ),
        (
            Folder::new().weights(|header, _| header[Q]["dtype"] = json!("I64")),
            vec![Q, "I64", "expected F32, F16 or BF16"],
        ),
        (
            Folder::new().weights(|header, _| header[Q]["data_offsets"] = json!([9, 3])),
            vec![Q, "9..3"],
        ),
        (Folder::new().weights(|header, _| header[Q] = json!(7)), vec![Q, "not described"]),
        (
            Folder::new().weights(|header, data| number(data, &header[Q], f32::NAN.to_bits())),
            vec![Q, "NaN at 1"],
        ),
        (
            Folder::new().weights(|header, data| {
                number(data, &header[Q], f32::INFINITY.to_bits());
            }),
            vec![Q, "inf at 1"],
        ),
        (
            Folder::new().weights(|header, _| {
                let norm = header["model.norm.weight"].clone();
                header["model.layers.0.self_attn.q_norm.weight"] = norm;
            }),
            vec!["q_norm", "no place in this architecture"],
        ),
        (
            Folder::new().weights(|_, data| data.truncate(data.len() - 10)),
            vec!["model.safetensors", "truncated"],
        ),
        (Folder::new().write("model.safetensors", [1, 2, 3]), vec!["3 bytes, too few"]),
        (
            Folder::new().write("model.safetensors", u64::MAX.to_le_bytes()),
            vec!["expected at most 100 MB"],
        ),
        (
            Folder::new().write("model.safetensors", joined("{\"a\":", b"")),
            vec!["no JSON object of tensors"],
        ),
        (Folder::new().config("hidden_size", json!(128)), vec!["[512, 64]", "[512, 128]"]),
        (Folder::new().config("num_hidden_layers", json!(3)), vec!["model.layers.2", "needs"]),
        (Folder::new().config("num_hidden_layers", json!(1)), vec!["model.layers.1", "no place"]),
        (Folder::new().config("num_key_value_heads", json!(3)), vec!["does not divide"]),
        (
            Folder::new().config("head_dim", Value::Null).config("hidden_size", json!(66)),
            vec!["num_attention_heads 4 does not divide hidden_size 66"],
        ),
        (Folder::new().config("head_dim", json!(0)), vec!["`head_dim` is 0", "positive"]),
        (Folder::new().config("num_attention_heads", json!(0)), vec!["`num_attention_heads` is 0"]),
        (Folder::new().config("vocab_size", json!(1_u64 << 60)), vec!["beyond any known model"]),
        (Folder::new().config("num_hidden_layers", json!(1_u64 << 60)), vec!["beyond any known"]),
        (
            Folder::new().config("rope_parameters", json!({"rope_type": "yarn"})),
            vec!["`rope_parameters.rope_type` is \"yarn\"", "longrope"],
        ),
        (
            // Another architecture's weights.
            Folder::new().config("model_type", json!("phi3")),
            vec!["no tensor `model.layers.0.self_attn.qkv_proj.weight` [128, 64]"],
        ),
        (
            Folder::new().config("model_type", json!("qwen3")),
            vec!["no tensor `model.layers.0.self_attn.q_norm.weight` [16]"],
        ),
        (Folder::new().config("model_type", json!("mamba")), vec!["`mamba` is not supported"]),
        (Folder::new().write("config.json", "{"), vec!["config.json is not a JSON object"]),
        (Folder::new().remove("config.json"), vec!["no config.json"]),
        (Folder::new().remove("config.json").write("model.gguf", "GGUF"), vec!["name that file"]),
        (Folder::new().remove("model.safetensors"), vec!["no model.safetensors"]),
        (
            Folder::new().remove("model.safetensors").write("pytorch_model.bin", "pickle"),
            vec!["pickled", "safe_serialization"],
        ),
    ];
    for (i, (folder, parts)) in cases.into_iter().enumerate() {
        let message = folder.refusal();
        for part in parts {
            assert!(message.contains(part), "case {i}: \"{message}\" lacks \"{part}\"");
        }
    }
}

#[test]
fn a_tensor_listed_twice_is_refused() {
    let (header, data) = split(&fs::read(fixture("models/tiny-llama/model.safetensors")).unwrap());
    let again = format!("{{{}:{},{}", json!(Q), header[Q], &header.to_string()[1..]);
    let folder = Folder::new().write("model.safetensors", joined(&again, &data));
    assert!(folder.refusal().contains("is listed twice"), "{}", folder.refusal());
}

#[test]
fn only_regular_files_are_read() {
    let folder = Folder::new().remove("model.safetensors");
    fs::create_dir(folder.file("model.safetensors")).unwrap();
    assert!(folder.refusal().contains("not a regular file"));
    let folder = Folder::new().remove("model.safetensors");
    std::os::unix::fs::symlink(folder.file("gone"), folder.file("model.safetensors")).unwrap();
    assert!(folder.refusal().contains("link to nothing"));
    let folder = Folder::new().remove("model.safetensors");
    std::os::unix::fs::symlink("/dev/zero", folder.file("model.safetensors")).unwrap();
    assert!(folder.refusal().contains("not a regular file"), "{}", folder.refusal());
    for name in ["model.safetensors", "config.json", "model.safetensors.index.json"] {
        let mut folder = Folder::new().remove("model.safetensors");
        if name == "config.json" {
            folder = folder.remove(name);
        }
        // Opening it to read would wait for a writer for ever.
        let made = std::process::Command::new("mkfifo").arg(folder.file(name)).status().unwrap();
        assert!(made.success());
        assert!(folder.refusal().contains("not a regular file"), "{name}: {}", folder.refusal());
    }
    let text = folder.file("notes.txt");
    fs::write(&text, "hello").unwrap();
    assert!(Model::load(&text).unwrap_err().to_string().contains(".gguf"));
    assert!(
        Model::load(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("/nowhere")
    );
}

/// The tiny model cut in two.
fn sharded() -> Folder {
    let (header, data) = split(&fs::read(fixture("models/tiny-llama/model.safetensors")).unwrap());
    let mut map = serde_json::Map::new();
    let mut parts = [(serde_json::Map::new(), Vec::new()), (serde_json::Map::new(), Vec::new())];
    for (i, (name, entry)) in header.as_object().unwrap().iter().enumerate() {
        if name == "__metadata__" {
            continue;
        }
        let (header, bytes) = &mut parts[i % 2];
        let at = |k: usize| entry["data_offsets"][k].as_u64().unwrap() as usize;
        let begin = bytes.len();
        bytes.extend(&data[at(0)..at(1)]);
        let mut entry = entry.clone();
        entry["data_offsets"] = json!([begin, bytes.len()]);
        header.insert(name.clone(), entry);
        map.insert(name.clone(), json!(format!("model-0000{}-of-00002.safetensors", i % 2 + 1)));
    }
    let mut folder = Folder::new().remove("model.safetensors");
    for (i, (header, data)) in parts.iter().enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", i + 1);
        folder = folder.write(&name, joined(&json!(header).to_string(), data));
    }
    let index = json!({"metadata": {"total_size": data.len()}, "weight_map": map});
    folder.write("model.safetensors.index.json", index.to_string())
}

#[test]
fn shards_are_one_model() {
    let folder = sharded();
    let whole = Model::load(&fixture("models/tiny-llama")).unwrap().logits(&[1, 2, 3]).unwrap();
    let shards = Model::load(folder.path()).unwrap().logits(&[1, 2, 3]).unwrap();
    assert_eq!(max_abs(&whole, &shards), 0.0);
    let names: Vec<String> = files_of(folder.path())
        .unwrap()
        .iter()
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ]
    );
}

#[test]
fn a_damaged_index_is_named() {
    const INDEX: &str = "model.safetensors.index.json";
    let edit = |change: &dyn Fn(&mut Value)| {
        let folder = sharded();
        let mut index: Value =
            serde_json::from_slice(&fs::read(folder.file(INDEX)).unwrap()).unwrap();
        change(&mut index["weight_map"]);
        folder.write(INDEX, index.to_string()).refusal()
    };
    let first = "model-00001-of-00002.safetensors";
    let absent = edit(&|map| map["model.layers.9.x"] = json!(first));
    assert!(absent.contains("no tensor `model.layers.9.x`, though the index names it"), "{absent}");
    let outside = edit(&|map| map[Q] = json!("../../secret.safetensors"));
    assert!(outside.contains("plain name"), "{outside}");
    let missing = sharded().remove(first).refusal();
    assert!(missing.contains(first) && missing.contains("missing"), "{missing}");
    let (header, data) = split(&fs::read(sharded().file(first)).unwrap());
    let twice =
        sharded().write("model-00002-of-00002.safetensors", joined(&header.to_string(), &data));
    assert!(twice.refusal().contains("though the index names it"), "{}", twice.refusal());
}

#[test]
fn half_precision_is_widened() {
    for (dtype, narrow) in [
        ("F16", &(|x: f32| half::f16::from_f32(x).to_le_bytes()) as &dyn Fn(f32) -> [u8; 2]),
        ("BF16", &|x: f32| half::bf16::from_f32(x).to_le_bytes()),
    ] {
        let folder = Folder::new().weights(|header, data| {
            let numbers = data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            *data = numbers.flat_map(narrow).collect();
            for (name, entry) in header.as_object_mut().unwrap() {
                if name != "__metadata__" {
                    entry["dtype"] = json!(dtype);
                    let halved = |k: usize| entry["data_offsets"][k].as_u64().unwrap() / 2;
                    entry["data_offsets"] = json!([halved(0), halved(1)]);
                }
            }
        });
        let found = WeightFiles::open(folder.path()).unwrap().read(Q).unwrap();
        let exact = WeightFiles::open(&fixture("models/tiny-llama")).unwrap().read(Q).unwrap();
        let error = max_abs(&found, &exact);
        assert!(error > 0.0 && error < 3e-3, "{dtype}: {error}");
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    for name in MODELS {
        let base = fixture(&format!("models/{name}"));
        let model = Model::load(&base).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &model, &base).unwrap();
        assert_eq!(&spec_of(folder.path()).unwrap(), model.spec());
        let ids = [5, 9, 20, 3];
        let again = Model::load(folder.path()).unwrap().logits(&ids).unwrap();
        assert_eq!(max_abs(&again, &model.logits(&ids).unwrap()), 0.0);
        let tokenizer = "tokenizer.json";
        assert_eq!(folder.path().join(tokenizer).is_file(), base.join(tokenizer).is_file());
        // Names and shapes are those other tools wrote, fused layers and offset norms included.
        let shapes = |path: &Path| {
            let bytes = fs::read(path.join("model.safetensors")).unwrap();
            let (mut header, _) = split(&bytes);
            header.as_object_mut().unwrap().remove("__metadata__");
            let entries = header.as_object().unwrap().iter();
            entries
                .map(|(name, e)| (name.clone(), e["shape"].to_string()))
                .collect::<BTreeMap<_, _>>()
        };
        assert_eq!(shapes(folder.path()), shapes(&base), "{name}");
    }
}

#[test]
fn both_spellings_of_a_configuration_are_one_model() {
    let mut seen = 0;
    for name in MODELS {
        let folder = fixture(&format!("models/{name}"));
        let Ok(older) = fs::read_to_string(folder.join("config.v4.json")) else { continue };
        assert_eq!(ModelSpec::from_hf_config(&older).unwrap(), spec_of(&folder).unwrap(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn the_shape_is_known_without_the_weights() {
    let folder = Folder::new().write("model.safetensors", "not looked at");
    assert_eq!(spec_of(folder.path()).unwrap().hidden_size, 64);
}
