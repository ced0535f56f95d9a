//! The files a model is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{EngineError, Result};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// What stands beside the weights and travels with them, if it is there.
pub(crate) const COMPANIONS: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Where a model's weights lie.
pub(crate) enum Layout {
    /// A Hugging Face folder and its safetensors files, with the tensors the index promises in each; none where only
    /// the configuration is there.
    Folder { config: PathBuf, shards: Vec<Shard> },
    /// One GGUF file.
    Gguf(PathBuf),
}

/// One safetensors file.
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    /// Tensors the index places here; `None` without an index.
    pub(crate) promised: Option<BTreeSet<String>>,
}

impl Layout {
    /// Looks at `path`.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(|e| EngineError::io(path, e))?;
        if meta.is_file() {
            if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
                return Ok(Self::Gguf(path.to_owned()));
            }
            return Err(wrong(path, "is a file, expected a model folder or a .gguf file"));
        }
        if !meta.is_dir() {
            return Err(wrong(path, "is neither a folder nor a regular file"));
        }
        let config = path.join(CONFIG);
        if !regular(&config)? {
            let hint = if any_with_extension(path, "gguf") {
                "has no config.json; to use the GGUF file in it, name that file"
            } else {
                "has no config.json, expected a Hugging Face model folder"
            };
            return Err(wrong(path, hint));
        }
        Ok(Self::Folder { config, shards: shards_of(path)? })
    }
}

fn shards_of(folder: &Path) -> Result<Vec<Shard>> {
    let single = folder.join(SINGLE);
    if regular(&single)? {
        return Ok(vec![Shard { path: single, promised: None }]);
    }
    let index = folder.join(INDEX);
    if regular(&index)? {
        return shards_of_index(folder, &index);
    }
    if ["bin", "pt", "pth"].iter().any(|e| any_with_extension(folder, e)) {
        return Err(wrong(
            folder,
            "holds only pickled weights, which run code when read; \
             convert them with transformers' save_pretrained(safe_serialization=True)",
        ));
    }
    Ok(Vec::new())
}

/// Whether the model at `path` has weights; a folder with nothing but a configuration (and perhaps a tokenizer) can
/// only be trained from random ones.
///
/// # Errors
/// As [`files_of`].
pub fn has_weights(path: &Path) -> Result<bool> {
    Ok(match Layout::of(path)? {
        Layout::Gguf(_) => true,
        Layout::Folder { shards, .. } => !shards.is_empty(),
    })
}

fn shards_of_index(folder: &Path, index: &Path) -> Result<Vec<Shard>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = std::fs::metadata(index).map_err(|e| EngineError::io(index, e))?.len();
    if bytes > INDEX_BYTES_MAX {
        return Err(wrong(index, &format!("has {bytes} bytes, expected at most 64 MiB")));
    }
    let text = std::fs::read_to_string(index).map_err(|e| EngineError::io(index, e))?;
    let parsed: Index =
        serde_json::from_str(&text).map_err(|e| wrong(index, &format!("is no index: {e}")))?;
    let mut by_file: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in &parsed.weight_map {
        // A path would let an index reach outside its folder.
        let plain = Path::new(file).file_name().is_some_and(|name| name == file.as_str());
        if !plain || !file.ends_with(".safetensors") {
            let why = format!(
                "places tensor `{}` in \"{}\", expected the plain name of a .safetensors file",
                tensor.escape_debug(),
                file.escape_debug()
            );
            return Err(wrong(index, &why));
        }
        by_file.entry(file).or_default().insert(tensor.clone());
    }
    by_file
        .into_iter()
        .map(|(file, promised)| {
            let path = folder.join(file);
            if !regular(&path)? {
                return Err(wrong(index, &format!("names \"{file}\", which is missing")));
            }
            Ok(Shard { path, promised: Some(promised) })
        })
        .collect()
}

/// The files that make up a model, for whoever carries it elsewhere: configuration, weights, tokenizer and template,
/// or the one GGUF file.
///
/// # Errors
/// As [`Model::load`](super::Model::load), as far as can be told without reading the weights.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    match Layout::of(path)? {
        Layout::Gguf(file) => Ok(vec![file]),
        Layout::Folder { config, shards } => {
            let mut files = vec![config];
            if shards.iter().any(|shard| shard.promised.is_some()) {
                files.push(path.join(INDEX));
            }
            files.extend(shards.into_iter().map(|shard| shard.path));
            for name in COMPANIONS {
                let file = path.join(name);
                if regular(&file)? {
                    files.push(file);
                }
            }
            Ok(files)
        }
    }
}

/// Whether a regular file stands there; anything else of that name is refused, since reading a pipe would never end.
fn regular(path: &Path) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(true),
        Ok(_) => Err(wrong(path, "is not a regular file")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match path.symlink_metadata() {
            Ok(_) => Err(wrong(path, "is a link to nothing")),
            Err(_) => Ok(false),
        },
        Err(e) => Err(EngineError::io(path, e)),
    }
}

fn any_with_extension(folder: &Path, extension: &str) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|p| p.extension().is_some_and(|e| e == extension))
}

pub(crate) fn wrong(path: &Path, why: &str) -> EngineError {
    EngineError::input(format!("{}: {why}", path.display()))
}
