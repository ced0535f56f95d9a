//! Weights that lie in their file in fewer bits than a float's.

use serde::{Deserialize, Serialize};

use super::ModelSpecError;
use super::keys::{CONFIG, Keys};
use crate::gguf::{GgufHeader, GgufType};

/// How a file that was quantised holds its weights; beside an adapter they are kept in memory the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredWeights {
    /// A GGUF file's blocks.
    Blocks {
        /// Of all weights, norms and biases as f32.
        bytes: u64,
    },
    /// Linear layers in bitsandbytes' four bits.
    FourBit {
        /// Whether the blocks' constants are quantised too.
        double: bool,
    },
    /// Linear layers in bitsandbytes' eight bits.
    EightBit,
}

impl StoredWeights {
    /// Of a GGUF file; `None` where all is f32.
    pub(super) fn of_gguf(header: &GgufHeader) -> Option<Self> {
        let weights = &header.tensors;
        let bytes = weights.iter().map(|t| match t.shape.len() {
            2 => t.bytes,
            _ => 4 * t.shape.iter().product::<usize>() as u64,
        });
        weights
            .iter()
            .any(|t| t.kind != GgufType::F32 && t.shape.len() == 2)
            .then(|| Self::Blocks { bytes: bytes.sum() })
    }

    /// What `quantization_config` says, if it is there.
    pub(super) fn of_config(keys: Keys<'_>) -> Result<Option<Self>, ModelSpecError> {
        let object =
            keys.optional("quantization_config", "an object", |v| v.as_object().cloned())?;
        let Some(object) = object else { return Ok(None) };
        let keys = Keys { object: &object, path: "quantization_config." };
        let method = keys.text("quant_method")?.unwrap_or_else(|| "bitsandbytes".into());
        if method != "bitsandbytes" {
            let found = format!("is \"{}\"", method.escape_debug());
            let expected = "\"bitsandbytes\"; other quantised weights cannot be read, use the model they were made from";
            return Err(ModelSpecError::Key {
                place: CONFIG,
                key: "quantization_config.quant_method".into(),
                found,
                expected,
            });
        }
        let set = |key| Ok::<_, ModelSpecError>(keys.flag(key)?.unwrap_or(false));
        Ok(match (set("load_in_4bit")?, set("load_in_8bit")?) {
            (true, _) => Some(Self::FourBit { double: set("bnb_4bit_use_double_quant")? }),
            (_, true) => Some(Self::EightBit),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::ModelSpec;

    fn stored(quantization: Value) -> Result<Option<StoredWeights>, ModelSpecError> {
        let mut config = serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
            "num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        });
        config["quantization_config"] = quantization;
        ModelSpec::from_hf_config(&config.to_string()).map(|spec| spec.stored)
    }

    #[test]
    fn bitsandbytes_is_told_from_other_ways() {
        let bits = |keys: &str| stored(serde_json::from_str(keys).unwrap());
        assert_eq!(bits("null"), Ok(None));
        let four = bits(r#"{"load_in_4bit":true,"bnb_4bit_use_double_quant":true}"#);
        assert_eq!(four, Ok(Some(StoredWeights::FourBit { double: true })));
        let eight = bits(r#"{"load_in_8bit":true,"quant_method":"bitsandbytes"}"#);
        assert_eq!(eight, Ok(Some(StoredWeights::EightBit)));
        let refused = bits(r#"{"quant_method":"gptq"}"#).unwrap_err().to_string();
        assert!(refused.contains("`quantization_config.quant_method` is \"gptq\""), "{refused}");
    }
}
