//! llama.cpp's own vocabulary files with the ids it gives for its test texts, where they are at hand: a folder of
//! `ggml-vocab-*.gguf`, each beside `.inp` and `.out`, named by `FLEETUNE_GGML_VOCABULARIES` (they come with llama.cpp's
//! sources, in `models/`).

use std::path::{Path, PathBuf};

use fleetune_engine::data::Tokenizer;

/// Those whose tokenizers are read from GGUF.
const FILES: [&str; 5] = ["llama-spm", "phi-3", "llama-bpe", "gpt-2", "qwen2"];

fn beside(path: &Path, end: &str) -> String {
    let path = PathBuf::from(format!("{}.{end}", path.display()));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn gguf_tokenizers_give_llama_cpps_ids() {
    let Some(folder) = std::env::var_os("FLEETUNE_GGML_VOCABULARIES") else { return };
    for name in FILES {
        let path = Path::new(&folder).join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::load(&path).unwrap();
        let (texts, ids) = (beside(&path, "inp"), beside(&path, "out"));
        let texts: Vec<_> = texts.split("\n__ggml_vocab_test__\n").collect();
        let mut wrong = Vec::new();
        for (text, ids) in texts.iter().zip(ids.lines()) {
            let expected: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let found = tokenizer.encode(text).unwrap();
            if found != expected {
                wrong.push(format!("{text:?}: {found:?}, expected {expected:?}"));
            }
        }
        assert!(
            wrong.is_empty(),
            "{name}: {} of {}\n{}",
            wrong.len(),
            texts.len(),
            wrong.join("\n")
        );
    }
}
