//! Results for other programs: a GGUF file that llama.cpp runs, of a model or of a LoRA adapter.
//!
//! ```text
//!   model folder ─▶ metadata + tokenizer + tensors, one at a time ─▶ model.gguf
//!   PEFT folder  ─▶ lora_a, lora_b under llama.cpp's names ─────────▶ adapter.gguf
//! ```
//!
//! Format: ggml's `docs/gguf.md`; names and orders are those of llama.cpp's `convert_hf_to_gguf.py` and
//! `convert_lora_to_gguf.py`. Reading GGUF is `model`'s and `data`'s business.

mod adapter;
mod file;
mod metadata;
mod model;
mod number;
mod tokenizer;

pub use adapter::export_adapter;
pub use model::export_model;
pub use number::NumberType;

use std::path::{Path, PathBuf};

use fleetune_shared::ByteSize;
use serde::Serialize;

use crate::{EngineError, Result};

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct ExportSummary {
    /// The file.
    pub path: PathBuf,
    /// `model` or `adapter`.
    pub kind: &'static str,
    /// llama.cpp's name of the architecture.
    pub architecture: String,
    /// Tensors in it.
    pub tensors: usize,
    /// Its size.
    pub bytes: ByteSize,
}

/// Has `fill` write beside `out` and moves the file there when it is whole.
fn in_place(out: &Path, fill: impl FnOnce(&Path) -> Result<usize>) -> Result<(usize, ByteSize)> {
    let io = |e| EngineError::io(out, e);
    if out.is_dir() {
        return Err(EngineError::input(format!(
            "{}: is a folder, expected the name of a .gguf file",
            out.display()
        )));
    }
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let unfinished = out.with_extension("unfinished.gguf");
    let filled = fill(&unfinished).and_then(|tensors| {
        let bytes = std::fs::metadata(&unfinished).map_err(io)?.len();
        std::fs::rename(&unfinished, out).map_err(io)?;
        Ok((tensors, ByteSize(bytes)))
    });
    if filled.is_err() {
        // Nobody misses what was never finished.
        let _ = std::fs::remove_file(&unfinished);
    }
    filled
}
