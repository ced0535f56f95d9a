//! What the demo works on, inside the binary: a tiny model, rows, a recipe.

use std::path::Path;

use crate::Failure;

/// A file of the demo, with its place in the demo's folder.
macro_rules! file {
    ($path:literal) => {
        ($path, include_bytes!(concat!("../../../assets/demo/", $path)).as_slice())
    };
}

const FILES: [(&str, &[u8]); 6] = [
    file!("recipe.yaml"),
    file!("data.jsonl"),
    file!("model/config.json"),
    file!("model/tokenizer.json"),
    file!("model/tokenizer_config.json"),
    file!("model/model.safetensors"),
];

/// Prompts whose answers the training changes, and one that it should leave alone.
pub(super) const PROMPTS: [&str; 4] = [
    "What is Fleetune?",
    "What does an agent do?",
    "What is a sweep?",
    "What is the capital of France?",
];

/// Writes the files into `folder`.
pub(super) fn unpack(folder: &Path) -> Result<(), Failure> {
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Failure::io(parent, &error))?;
        }
        std::fs::write(&path, bytes).map_err(|error| Failure::io(&path, &error))?;
    }
    Ok(())
}
