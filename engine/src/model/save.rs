//! A whole model to disk, as transformers would write it.

use std::path::Path;

use fleetune_shared::ModelSpec;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::Model;
use super::files::{COMPANIONS, CONFIG, Layout, SINGLE, wrong};
use super::stored::Stored;
use crate::data::Tokenizer;
use crate::tensor_file::{TensorEntry, TensorFile};
use crate::{EngineError, Result};

/// Writes `model.safetensors` (f32, or bf16 where the model is held in it) and `config.json` into `dir`, which exists.
/// From `base`, the folder the model was loaded from, the configuration's other keys, the tokenizer and the template
/// come along; from a GGUF file, tokenizer and template.
///
/// # Errors
/// When a file cannot be written, or the model holds weights in fewer bits than it would be saved in.
pub fn save(dir: &Path, model: &Model, base: &Path) -> Result<()> {
    if let Some(name) = model.packed().next() {
        return Err(EngineError::input(format!(
            "`{name}` is held in few bits and would be lost by saving; load the model with `dtype: float32`"
        )));
    }
    write_tensors(&dir.join(SINGLE), model.stored(), None)?;
    let narrow = model.stored().any(|(_, tensor)| tensor.dtype() == Dtype::BF16);
    save_surroundings(dir, model.spec(), base, if narrow { Dtype::BF16 } else { Dtype::F32 })?;
    if model.scores_answers() { classify(&dir.join(CONFIG)) } else { Ok(()) }
}

/// Has transformers load a reward model as what it is: a sequence classifier with one label.
fn classify(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| EngineError::io(path, e))?;
    let mut config: Value =
        serde_json::from_str(&text).map_err(|e| wrong(path, &format!("is no JSON: {e}")))?;
    if let Some(name) = config["architectures"][0].as_str() {
        let name = name.replace("ForCausalLM", "ForSequenceClassification");
        config["architectures"] = json!([name]);
    }
    config["id2label"] = json!({"0": "LABEL_0"});
    config["label2id"] = json!({"LABEL_0": 0});
    std::fs::write(path, format!("{config:#}\n")).map_err(|e| EngineError::io(path, e))
}

/// Everything of [`save`] but the weights, which are of `dtype`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn save_surroundings(dir: &Path, spec: &ModelSpec, base: &Path, dtype: Dtype) -> Result<()> {
    let dtype = match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    };
    let config = match Layout::of(base)? {
        Layout::Gguf(file) => {
            // Weights are worth more than a tokenizer that only fails to be copied.
            match Tokenizer::load(&file) {
                Ok(tokenizer) => tokenizer.save(dir)?,
                Err(error) => tracing::warn!("the model goes without a tokenizer: {error}"),
            }
            let mut config = spec.to_hf_config();
            config["torch_dtype"] = dtype.into();
            config
        }
        Layout::Folder { config, .. } => {
            for name in COMPANIONS {
                let from = base.join(name);
                if from.is_file() {
                    std::fs::copy(&from, dir.join(name)).map_err(|e| EngineError::io(&from, e))?;
                }
            }
            let text = std::fs::read_to_string(&config).map_err(|e| EngineError::io(&config, e))?;
            let mut value: Value = serde_json::from_str(&text)
                .map_err(|e| wrong(&config, &format!("is no JSON: {e}")))?;
            if let Some(keys) = value.as_object_mut() {
                // transformers 4 and 5 spell it differently; both read the older name.
                keys.remove("dtype");
                keys.insert("torch_dtype".into(), dtype.into());
                keys.insert("tie_word_embeddings".into(), spec.tie_word_embeddings.into());
                // The saved weights are plain.
                keys.remove("quantization_config");
            }
            value
        }
    };
    let path = dir.join(CONFIG);
    std::fs::write(&path, format!("{config:#}\n")).map_err(|e| EngineError::io(&path, e))
}

/// Writes f32 and bf16 tensors as transformers and PEFT read them, and a key and a text of our own into the file's
/// metadata, which both pass over.
pub(crate) fn write_tensors<'a, S: Into<Stored<'a>>>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, S)>,
    own: Option<(&str, String)>,
) -> Result<()> {
    let tensors: Vec<(&str, Stored<'_>)> =
        tensors.map(|(name, tensor)| (name, tensor.into())).collect();
    let entry = |(name, tensor): &(&str, Stored<'_>)| TensorEntry {
        name: (*name).to_owned(),
        dtype: tensor.dtype(),
        shape: tensor.dims().to_vec(),
    };
    let entries: Vec<_> = tensors.iter().map(entry).collect();
    let mut file = TensorFile::create_with(path, &entries, own)?;
    for (_, tensor) in tensors {
        tensor.write(&mut file)?;
    }
    file.finish()
}
