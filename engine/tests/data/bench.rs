//! A workbench: small files, the shrunken SmolLM2 tokenizer, settings with a few keys changed.

use std::path::{Path, PathBuf};

use fleetune_engine::Result;
use fleetune_engine::data::{Dataset, Row, Tokenizer, preview};
use fleetune_shared::{ModelSpec, Recipe};
use tempfile::TempDir;

pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) tokenizer: Tokenizer,
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat")
}

/// The shape of SmolLM2, as far as data is concerned.
pub(crate) fn spec() -> ModelSpec {
    let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,
        "num_attention_heads":4,"vocab_size":49152,"max_position_embeddings":8192,"rms_norm_eps":1e-5}"#;
    ModelSpec::from_hf_config(config).unwrap()
}

/// Every row, packed or not.
pub(crate) fn rows(dataset: &Dataset) -> Vec<Row> {
    dataset.iter().flat_map(|rows| rows.unwrap()).collect()
}

impl Bench {
    pub(crate) fn new() -> Self {
        let tokenizer = Tokenizer::load(&fixtures().join("smollm2")).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), tokenizer }
    }

    /// With `source` as the chat template.
    pub(crate) fn with_template(source: &str) -> Self {
        let mut bench = Self::new();
        let path = bench.file("template.jinja", source);
        bench.tokenizer.use_chat_template(&path).unwrap();
        bench
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Loads `bytes` as the file `rows.jsonl` under a recipe with `keys`.
    pub(crate) fn load(&self, bytes: impl AsRef<[u8]>, keys: &str) -> Result<Dataset> {
        let path = self.file("rows.jsonl", bytes);
        self.load_files(&[path], keys)
    }

    pub(crate) fn load_files(&self, paths: &[PathBuf], keys: &str) -> Result<Dataset> {
        let recipe = format!("model_name_or_path: base\ndataset_name: rows.jsonl\n{keys}");
        let data = Recipe::read(&recipe).unwrap().data;
        Dataset::load(paths, &data, Some(&self.tokenizer), &spec())
    }

    /// What each row of the file `name` teaches.
    pub(crate) fn preview_file(&self, path: PathBuf, keys: &str) -> Vec<String> {
        let place = path.display().to_string();
        let dataset = self.load_files(&[path], keys).unwrap_or_else(|e| panic!("{place}: {e}"));
        self.shown(&dataset)
    }

    /// The error of loading `bytes` as the file `name`, without the file's name.
    pub(crate) fn refusal_of(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.file(name, bytes);
        let error = self.load_files(std::slice::from_ref(&path), "").expect_err(name).to_string();
        let rest = error.strip_prefix(&path.display().to_string());
        rest.unwrap_or_else(|| panic!("no file name: {error}")).to_owned()
    }

    /// What each row teaches, in `[brackets]`.
    pub(crate) fn preview(&self, bytes: &str, keys: &str) -> Vec<String> {
        let dataset = self.load(bytes, keys).unwrap_or_else(|e| panic!("{bytes}: {e}"));
        self.shown(&dataset)
    }

    fn shown(&self, dataset: &Dataset) -> Vec<String> {
        let row = |row| {
            let segments = preview(row, &self.tokenizer).unwrap().into_iter();
            segments.map(|s| if s.supervised { format!("[{}]", s.text) } else { s.text }).collect()
        };
        rows(dataset).iter().map(row).collect()
    }

    /// The error of loading `bytes`, which must begin with the file's name.
    pub(crate) fn refusal(&self, bytes: impl AsRef<[u8]>, keys: &str) -> String {
        let error = self.load(bytes, keys).expect_err("it was accepted").to_string();
        let path = self.folder.path().join("rows.jsonl").display().to_string();
        let rest = error.strip_prefix(&path).unwrap_or_else(|| panic!("no file name: {error}"));
        rest.to_owned()
    }
}
