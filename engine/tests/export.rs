//! GGUF files, read back by this engine; `tests/interop` has llama.cpp's own package read them.

use std::path::{Path, PathBuf};

use fleetune_engine::adapter::Layer;
use fleetune_engine::data::Tokenizer;
use fleetune_engine::export::{NumberType, export_adapter, export_model};
use fleetune_engine::model::Model;

fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

fn logits(path: &Path) -> Vec<f32> {
    let ids: Vec<u32> = (1..40).map(|i| i * 37 % 500).collect();
    Model::load(path).unwrap().logits(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_file_answers_as_the_folder_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.gguf");
    // Reordered heads, tied heads, biases, norms on heads, fused projections.
    for model in ["tiny-llama", "tiny-llama-tied", "tiny-qwen2", "tiny-qwen3", "tiny-phi3"] {
        let path = fixture("models").join(model);
        let path = with_tokenizer(folder.path(), &path);
        let expected = logits(&path);
        let largest = expected.iter().fold(0f32, |x, y| x.max(y.abs()));
        for (kind, bound) in [
            (NumberType::F32, 1e-5),
            (NumberType::F16, 1e-2),
            (NumberType::Bf16, 5e-2),
            (NumberType::Q8_0, 5e-2),
            (NumberType::Q4_1, 0.5),
        ] {
            let summary = export_model(&path, &out, kind).unwrap();
            let found = apart(&logits(&out), &expected) / largest;
            eprintln!("{model} {}: {} bytes, {found:.1e}", kind.name(), summary.bytes.0);
            assert!(found < bound, "{model} {}: {found}", kind.name());
            assert!(kind == NumberType::F32 || found > 0.0);
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(
        left.iter().all(|e| !e
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("unfinished"))
    );
}

/// The model beside the tokenizer of `tiny-llama`, which all tiny models speak.
fn with_tokenizer(folder: &Path, model: &Path) -> PathBuf {
    let both = folder.join(model.file_name().unwrap());
    std::fs::create_dir(&both).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(file), both.join(file)).unwrap();
    }
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("models/tiny-llama").join(file), both.join(file)).unwrap();
    }
    both
}

#[test]
fn the_tokenizer_comes_along() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.gguf");
    let path = fixture("models/tiny-llama");
    export_model(&path, &out, NumberType::F32).unwrap();
    let (before, after) = (Tokenizer::load(&path).unwrap(), Tokenizer::load(&out).unwrap());
    for text in
        ["Ahoy, matey! 12345 sails.", "<|im_start|>user\nhéllo\u{2003}wörld<|im_end|>", "  a\n\nb"]
    {
        assert_eq!(before.encode(text).unwrap(), after.encode(text).unwrap(), "{text}");
    }
    assert_eq!(before.eos(), after.eos());
    assert_eq!(before.chat_template().map(|(t, _)| t), after.chat_template().map(|(t, _)| t));
}

/// A tokenizer as Llama 2 and Mistral have it, with few pieces: later letters are joined before earlier ones.
fn sentence_piece(begins: bool) -> serde_json::Value {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = ["▁", "a", "b", "c", "bc", "ab", "▁a", "▁ab", "▁abc", "é"];
    let all = ["<unk>", "<s>", "</s>"].map(String::from).into_iter().chain(bytes);
    let all = all.chain(pieces.map(String::from)).enumerate();
    let vocab: serde_json::Map<_, _> = all.map(|(id, piece)| (piece, id.into())).collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false})
    };
    let spaces = serde_json::json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = serde_json::json!({"type": "Prepend", "prepend": "▁"});
    let mut decoders = vec![
        serde_json::json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        serde_json::json!({"type": "ByteFallback"}),
        serde_json::json!({"type": "Fuse"}),
    ];
    if begins {
        decoders.push(serde_json::json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let normalizers = if begins { vec![prepend, spaces] } else { vec![spaces] };
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "vocab": vocab, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "merges": [["b", "c"], ["a", "b"], ["▁", "a"], ["▁a", "b"], ["▁", "ab"], ["▁a", "bc"]],
        },
    })
}

#[test]
fn a_sentence_piece_tokenizer_comes_along() {
    for begins in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let model = with_tokenizer(folder.path(), &fixture("models/tiny-llama"));
        std::fs::write(model.join("tokenizer.json"), sentence_piece(begins).to_string()).unwrap();
        let config = r#"{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}"#;
        std::fs::write(model.join("tokenizer_config.json"), config).unwrap();
        let out = folder.path().join("model.gguf");
        export_model(&model, &out, NumberType::F32).unwrap();
        let (before, after) = (Tokenizer::load(&model).unwrap(), Tokenizer::load(&out).unwrap());
        let texts = ["abc", "ab c", "cab  abc\n", "é ö 文", "</s>abc", "", "▁a"];
        for text in texts {
            let ids = before.encode(text).unwrap();
            assert_eq!(after.encode(text).unwrap(), ids, "{text}");
            assert_eq!(after.decode(&ids).unwrap(), before.decode(&ids).unwrap(), "{text}");
        }
        // `bc` counts for more than `ab`.
        let piece = |name: &str| before.encode(name).unwrap();
        let abc = after.encode("abc").unwrap();
        assert_eq!(abc.len(), if begins { 1 } else { 2 }, "{abc:?} {:?}", piece("ab"));
        assert_eq!((before.eos(), before.bos()), (after.eos(), after.bos()));
    }
}

#[test]
fn what_has_no_place_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.gguf");
    let path = fixture("models/tiny-llama");
    let refused =
        |path: &Path, out: &Path| export_model(path, out, NumberType::F32).unwrap_err().to_string();
    assert!(
        refused(&path, folder.path()).contains("is a folder, expected the name of a .gguf file")
    );
    let windows = with_tokenizer(folder.path(), &fixture("models/tiny-gemma3"));
    let message = refused(&windows, &out);
    assert!(message.contains("no way to say this model's pattern of sliding windows"), "{message}");
    let copy = with_tokenizer(folder.path(), &path);
    let text = std::fs::read_to_string(copy.join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["pre_tokenizer"] = serde_json::json!({"type": "Whitespace"});
    std::fs::write(copy.join("tokenizer.json"), json.to_string()).unwrap();
    let message = refused(&copy, &out);
    assert!(message.contains("cuts words in a way"), "{message}");
    assert!(!out.exists());
}

/// llama.cpp adds `alpha / r · B·A` to its own order of rows; read back by hand, that is the adapter again.
#[test]
fn an_adapter_comes_back_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let base = fixture("models/tiny-llama");
    for name in ["merge/lora.adapter", "adapters/rslora", "adapters/lora_patterns"] {
        let out = folder.path().join("adapter.gguf");
        let summary = export_adapter(&fixture(name), &base, &out, NumberType::F32).unwrap();
        let adapter = fleetune_engine::adapter::load(&fixture(name)).unwrap();
        assert_eq!(summary.tensors, 2 * adapter.layers().count(), "{name}");
        let mut file = std::fs::File::open(&out).unwrap();
        let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
        let alpha = f64::from(content.metadata["adapter.lora.alpha"].to_f32().unwrap());
        let mut read = |name: &str| {
            let tensor = content.tensor(&mut file, name, &candle_core::Device::Cpu).unwrap();
            tensor.dequantize(&candle_core::Device::Cpu).unwrap()
        };
        let a = read("blk.1.attn_q.weight.lora_a");
        let b = read("blk.1.attn_q.weight.lora_b");
        let found = (b.matmul(&a).unwrap() * (alpha / a.dim(0).unwrap() as f64)).unwrap();
        let found = found.to_vec2::<f32>().unwrap();
        let module = "model.layers.1.self_attn.q_proj";
        let Some(Layer::Lora(layer)) = adapter.layer(module) else { panic!("{name}") };
        let expected = (layer.b.matmul(&layer.a).unwrap() * layer.scaling).unwrap();
        let expected = expected.to_vec2::<f32>().unwrap();
        // Four heads of sixteen: row i of a half of a head stands at 2i, of the other at 2i + 1.
        assert_eq!(expected.len(), 64);
        for (row, expected) in expected.iter().enumerate() {
            let (head, half, at) = (row / 16, row % 16 / 8, row % 8);
            let there = head * 16 + at * 2 + half;
            assert!(apart(&found[there], expected) < 1e-5, "{name}: row {row}");
        }
    }
    for (name, part) in [("adapters/dora", "is DoRA"), ("adapters/ia3", "is IA³")] {
        let out = folder.path().join("refused.gguf");
        let refused = export_adapter(&fixture(name), &base, &out, NumberType::F16).unwrap_err();
        assert!(refused.to_string().contains(part), "{refused}");
        assert!(!out.exists());
    }
}
