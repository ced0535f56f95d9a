//! From files to a model.

use std::path::Path;
use std::sync::Arc;

use fleetune_shared::ModelSpec;
use fleetune_shared::recipe::Quantization;

use super::block::Block;
use super::decoder::Model;
use super::hold;
use super::linear::Linear;
use super::source::{WeightFiles, has_bias, module};
use super::trainable::Parameter;
use super::weight::Weight;
use crate::Result;
use crate::ops::{Backend, frequencies};

pub(super) fn load(path: &Path, ops: Arc<dyn Backend>, how: Quantization) -> Result<Model> {
    let files = WeightFiles::open(path)?;
    assemble(files.spec().clone(), ops, &|name| hold::weight(&files, name, how))
}

/// A frozen model of the weights that `weight` gives by name.
pub(super) fn assemble(
    spec: ModelSpec,
    ops: Arc<dyn Backend>,
    weight: &dyn Fn(&str) -> Result<Weight>,
) -> Result<Model> {
    let read = |name: String| -> Result<Parameter> {
        crate::memory::check()?;
        let weight = weight(&name)?;
        Ok(Parameter::Frozen(name, weight))
    };
    let linear = |block: usize, name: &str| -> Result<Linear> {
        let module = module(block, name);
        let bias = has_bias(&spec, name).then(|| read(format!("{module}.bias"))).transpose()?;
        Ok(Linear { weight: read(format!("{module}.weight"))?, bias, lora: None })
    };
    let block = |index: usize| -> Result<Block> {
        let [q, k, v, o, gate, up, down] = spec.linears().map(|(name, ..)| linear(index, name));
        Ok(Block {
            input_norm: read(format!("model.layers.{index}.input_layernorm.weight"))?,
            post_attention_norm: read(format!(
                "model.layers.{index}.post_attention_layernorm.weight"
            ))?,
            linears: [q?, k?, v?, o?, gate?, up?, down?],
        })
    };
    Ok(Model {
        embed: read("model.embed_tokens.weight".into())?,
        blocks: (0..spec.num_hidden_layers).map(block).collect::<Result<_>>()?,
        norm: read("model.norm.weight".into())?,
        head: (!spec.tie_word_embeddings).then(|| read("lm_head.weight".into())).transpose()?,
        frequencies: frequencies(&spec),
        gradient_checkpointing: false,
        ops,
        spec,
    })
}
