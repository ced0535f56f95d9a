//! A whole model to disk, as transformers would write it.

use std::path::Path;

use candle_core::Tensor;
use fleetune_shared::{ModelSpec, RopeScaling};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::Model;
use super::files::{COMPANIONS, CONFIG, Layout, SINGLE, wrong};
use crate::data::Tokenizer;
use crate::ops::slices::view;
use crate::tensor_file::{TensorEntry, TensorFile};
use crate::{EngineError, Result};

/// Writes `model.safetensors` (f32) and `config.json` into `dir`, which exists. From `base`, the folder the model was
/// loaded from, the configuration's other keys, the tokenizer and the template come along; from a GGUF file, tokenizer
/// and template.
///
/// # Errors
/// When a file cannot be written.
pub fn save(dir: &Path, model: &Model, base: &Path) -> Result<()> {
    write_tensors(&dir.join(SINGLE), model.weights())?;
    save_surroundings(dir, model.spec(), base, Dtype::F32)
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
            config_of(spec, dtype)
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
                // The saved weights are plain.
                keys.remove("quantization_config");
            }
            value
        }
    };
    let path = dir.join(CONFIG);
    std::fs::write(&path, format!("{config:#}\n")).map_err(|e| EngineError::io(&path, e))
}

/// Writes f32 tensors as transformers and PEFT read them.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    let tensors: Vec<_> = tensors.collect();
    let entry = |(name, tensor): &(&str, &Tensor)| TensorEntry {
        name: (*name).to_owned(),
        dtype: Dtype::F32,
        shape: tensor.dims().to_vec(),
    };
    let entries: Vec<_> = tensors.iter().map(entry).collect();
    let mut file = TensorFile::create(path, &entries)?;
    for (_, tensor) in tensors {
        file.write_f32(&view(tensor)?)?;
    }
    file.finish()
}

/// The `config.json` of a model that came without one.
fn config_of(spec: &ModelSpec, dtype: &str) -> Value {
    let rope_scaling = match &spec.rope_scaling {
        None => Value::Null,
        Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": spec.model_type,
        "hidden_act": "silu",
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_hidden_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_position_embeddings,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_theta": spec.rope_theta,
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "attention_bias": spec.attention_bias,
        "mlp_bias": spec.mlp_bias,
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": spec.eos_token_ids,
        "pad_token_id": spec.pad_token_id,
        "torch_dtype": dtype,
    })
}
