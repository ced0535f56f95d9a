//! A base model on disk, of either kind, checked against its own configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use fleetune_shared::ModelSpec;
use safetensors::tensor::Dtype;

use super::bitsandbytes::Checkpoint;
use super::files::{Layout, wrong};
use super::gguf::GgufFile;
use crate::quant::PackedMatrix;
use crate::{EngineError, Result};

/// Larger configurations are refused.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// The shape of the model at `path`, from `config.json` or the GGUF header alone.
///
/// # Errors
/// [`EngineError::Input`] when there is no model there or it is of an unsupported kind.
pub fn spec_of(path: &Path) -> Result<ModelSpec> {
    match Layout::of(path)? {
        Layout::Gguf(file) => Ok(GgufFile::open(&file)?.spec),
        Layout::Folder { config, .. } => read_config(&config),
    }
}

fn read_config(config: &Path) -> Result<ModelSpec> {
    let io = |e| EngineError::io(config, e);
    let bytes = std::fs::metadata(config).map_err(io)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(wrong(config, &format!("has {bytes} bytes, expected at most 4 MiB")));
    }
    let text = std::fs::read_to_string(config).map_err(io)?;
    ModelSpec::from_hf_config(&text)
        .map_err(|e| wrong(config.parent().unwrap_or(config), &e.to_string()))
}

/// A model's tensors by Hugging Face's names, read one at a time as f32: for loading and for merging.
#[derive(Debug)]
pub struct WeightFiles {
    spec: ModelSpec,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Checkpoint(Checkpoint),
    Gguf(Box<GgufFile>),
}

impl WeightFiles {
    /// Opens the model at `path` and checks that every tensor its configuration calls for is there, in its shape, and
    /// that nothing else is; numbers are not read yet.
    ///
    /// # Errors
    /// [`EngineError::Input`] naming file and tensor, what was found and what was expected.
    pub fn open(path: &Path) -> Result<Self> {
        let files = match Layout::of(path)? {
            Layout::Gguf(file) => {
                let gguf = GgufFile::open(&file)?;
                Self { spec: gguf.spec.clone(), kind: Kind::Gguf(Box::new(gguf)) }
            }
            Layout::Folder { shards, .. } if shards.is_empty() => {
                let why = "has no model.safetensors and no model.safetensors.index.json";
                return Err(wrong(path, why));
            }
            Layout::Folder { config, shards } => Self {
                spec: read_config(&config)?,
                kind: Kind::Checkpoint(Checkpoint::open(&shards)?),
            },
        };
        files.check(path)?;
        Ok(files)
    }

    /// The shape.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Names and shapes of all tensors, in the order of the layers.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        expected(&self.spec)
    }

    /// How a safetensors file stores `name`; F32 for what a GGUF file holds, as that is what its blocks become.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Dtype {
        match &self.kind {
            Kind::Checkpoint(checkpoint) => checkpoint.dtype(name).unwrap_or(Dtype::F32),
            Kind::Gguf(_) => Dtype::F32,
        }
    }

    /// The tensor `name` as f32.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it holds NaN or infinity.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        match &self.kind {
            Kind::Checkpoint(checkpoint) => checkpoint.read(name),
            Kind::Gguf(gguf) => gguf.read(name),
        }
    }

    /// The matrix `name` in the blocks or codes it is stored in; `None` where those are plain numbers.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn packed(&self, name: &str) -> Result<Option<PackedMatrix>> {
        match &self.kind {
            Kind::Checkpoint(checkpoint) => checkpoint.packed(name),
            Kind::Gguf(gguf) => gguf.packed(name),
        }
    }

    /// The matrix `name` where it lies, if a file stores it as bf16.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn mapped(&self, name: &str) -> Result<Option<PackedMatrix>> {
        match &self.kind {
            Kind::Checkpoint(checkpoint) => checkpoint.map(name),
            Kind::Gguf(_) => Ok(None),
        }
    }

    /// Whether this is a folder of safetensors.
    pub(super) fn is_checkpoint(&self) -> bool {
        matches!(self.kind, Kind::Checkpoint(_))
    }

    fn check(&self, path: &Path) -> Result<()> {
        let mut found: BTreeMap<String, (Vec<usize>, PathBuf)> = BTreeMap::new();
        match &self.kind {
            Kind::Checkpoint(checkpoint) => {
                for (name, shape, file) in checkpoint.shapes() {
                    found.insert(name.to_owned(), (shape.to_vec(), file.to_owned()));
                }
            }
            Kind::Gguf(gguf) => {
                for (name, shape, file) in gguf.shapes() {
                    if found.insert(name.clone(), (shape.to_vec(), file.to_owned())).is_some() {
                        return Err(wrong(gguf.path(), &format!("tensor `{name}` comes twice")));
                    }
                }
            }
        }
        for (name, shape) in expected(&self.spec) {
            match found.remove(&name) {
                None => {
                    let why = format!("no tensor `{name}` {shape:?}, which the model needs");
                    return Err(wrong(path, &why));
                }
                Some((other, file)) if other != shape => {
                    let why =
                        format!("tensor `{name}` is {other:?}, the configuration says {shape:?}");
                    return Err(wrong(&file, &why));
                }
                Some(_) => {}
            }
        }
        match found.into_iter().find(|(name, _)| !self.ignorable(name)) {
            None => Ok(()),
            Some((name, (shape, file))) => {
                let name = name.escape_debug();
                let why = format!("tensor `{name}` {shape:?} has no place in this architecture");
                Err(wrong(&file, &why))
            }
        }
    }

    /// Copies of what the model knows already: a tied head, and frequencies old versions stored.
    fn ignorable(&self, name: &str) -> bool {
        (self.spec.tie_word_embeddings && name == "lm_head.weight")
            || name.ends_with(".rotary_emb.inv_freq")
    }
}

/// Every tensor a model of this shape has, by Hugging Face's names.
pub(super) fn expected(spec: &ModelSpec) -> Vec<(String, Vec<usize>)> {
    let (h, v) = (spec.hidden_size, spec.vocab_size);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![v, h])];
    for block in 0..spec.num_hidden_layers {
        for (name, width) in spec.block_norms() {
            all.push((format!("{}.weight", norm(block, name)), vec![width]));
        }
        for (name, out, inp) in spec.linears() {
            let module = ModelSpec::module(block, name);
            all.push((format!("{module}.weight"), vec![out, inp]));
            if spec.has_bias(name) {
                all.push((format!("{module}.bias"), vec![out]));
            }
        }
    }
    all.push(("model.norm.weight".to_owned(), vec![h]));
    if !spec.tie_word_embeddings {
        all.push(("lm_head.weight".to_owned(), vec![v, h]));
    }
    all
}

/// `input_layernorm` of block 3 is `model.layers.3.input_layernorm`.
pub(super) fn norm(block: usize, name: &str) -> String {
    format!("model.layers.{block}.{name}")
}
