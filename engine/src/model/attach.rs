//! Laying an adapter beside a model.

use std::collections::BTreeMap;

use candle_core::Tensor;
use fleetune_shared::recipe::{Freeze, LoraBias};
use fleetune_shared::{AdapterConfig, ModelSpec};
use regex::RegexSet;

use super::Model;
use super::block::Block;
use super::embedding::EmbeddingLora;
use super::linear::{Beside, Linear};
use super::lora::Lora;
use super::scale::Scale;
use super::trainable::{Role, Trainable};
use crate::adapter::{Adapter, Half, Layer, ScaleLayer, key, whole_key};
use crate::{EngineError, Result};

const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";

/// What attaching an adapter did besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The head was the embedding's own table, and is now one of its own.
    pub unties_head: bool,
}

impl Model {
    /// Lays an adapter beside the modules it names; only its tensors learn. A head that is tied to the embedding is
    /// untied where the adapter changes one of the two, as PEFT does: the other keeps the base's numbers.
    ///
    /// # Errors
    /// When the model has no such module, a shape does not fit, or an adapter is attached already.
    pub fn attach(&mut self, adapter: Adapter) -> Result<Attached> {
        if self.trainables().next().is_some() {
            return Err(EngineError::input("the model already carries an adapter"));
        }
        adapter.fits(&self.spec)?;
        let (config, mut layers, whole) = adapter.into_parts();
        let touches = |module: &str| layers.contains_key(module) || config.saves_whole(module);
        let unties_head = self.head.is_none() && (touches(EMBEDDING) || touches(HEAD));
        if unties_head {
            self.head = Some(Linear::new(self.embed.table.twin("lm_head.weight"), None));
        }
        let fresh = whole.is_none();
        self.copy_whole(&config, &layers, whole)?;
        if let Some(Layer::Lora(layer)) = layers.remove(EMBEDDING) {
            self.embed.lora = Some(EmbeddingLora::new(EMBEDDING, layer));
        }
        let ops = self.ops.clone();
        let linears = self.blocks.iter_mut().flat_map(Block::linears_mut);
        for (stream, linear) in (0..).zip(linears.chain(&mut self.head)) {
            crate::memory::check()?;
            let module = linear.module().to_owned();
            linear.adapter = match layers.remove(&module) {
                None => None,
                Some(Layer::Scale(ScaleLayer { scale, feedforward })) => {
                    let scale = Trainable::of(Role::Scale, key(&module, Half::Scale), scale);
                    Some(Beside::Scale(Scale { scale, feedforward }))
                }
                Some(Layer::Lora(layer)) => {
                    let (ops, weight, place) = (ops.as_ref(), &mut linear.weight, (stream, fresh));
                    let lora = Lora::new(ops, weight, &module, layer, &config, place)?;
                    Some(Beside::Lora(Box::new(lora)))
                }
            };
        }
        Ok(Attached { unties_head })
    }

    /// Lets some of the base's own tensors learn: those of the last `layers` blocks (the first where it is negative),
    /// and those a pattern is found in the name of. A matrix that is held in bf16 goes on in it, and the optimizer
    /// rounds its steps by chance.
    ///
    /// # Errors
    /// [`EngineError::Input`] when that is none of them, or a pattern cannot be read.
    pub fn train_some(&mut self, freeze: &Freeze) -> Result<()> {
        let blocks = self.blocks.len();
        let count = (freeze.layers.unsigned_abs() as usize).min(blocks);
        let learning = if freeze.layers < 0 { 0..count } else { blocks - count..blocks };
        let of_block =
            |name: &str| ModelSpec::block_of(name).is_some_and(|index| learning.contains(&index));
        let patterns = RegexSet::new(&freeze.patterns)
            .map_err(|e| EngineError::input(format!("unfrozen_parameters: {e}")))?;
        for parameter in self.parameters_mut() {
            if of_block(parameter.name()) || patterns.is_match(parameter.name()) {
                parameter.thaw_as_held()?;
            }
        }
        if self.trainables().next().is_some() {
            return Ok(());
        }
        let patterns = freeze.patterns.join("`, `");
        Err(EngineError::input(format!(
            "unfrozen_parameters: `{}` is found in no tensor's name, expected some such as \
             model.layers.0.mlp.up_proj.weight",
            patterns.escape_debug()
        )))
    }

    /// Puts copies that learn in the place of modules trained whole, and of biases.
    fn copy_whole(
        &mut self,
        config: &AdapterConfig,
        layers: &BTreeMap<String, Layer>,
        mut whole: Option<BTreeMap<String, Tensor>>,
    ) -> Result<()> {
        let wrong = |why: String| Err(EngineError::input(format!("adapter: {why}")));
        for parameter in self.parameters_mut() {
            let name = parameter.name().to_owned();
            let Some((module, tensor)) = name.rsplit_once('.') else { continue };
            let adapted = layers.contains_key(module);
            let saved = config.saves_whole(module);
            if saved && adapted {
                return wrong(format!("`{module}` is in both target_modules and modules_to_save"));
            }
            let biased = tensor == "bias"
                && (config.bias == LoraBias::All || config.bias == LoraBias::LoraOnly && adapted);
            if !saved && !biased {
                continue;
            }
            let value = whole.as_mut().map(|whole| whole.remove(&name));
            if let Some(None) = value {
                let key = if saved { "modules_to_save" } else { "bias" };
                return wrong(format!("{key} asks for `{name}`, which has no tensor"));
            }
            let value = value.flatten();
            if let Some(value) = &value {
                let (found, expected) = (value.dims(), parameter.dims());
                if found != expected {
                    return wrong(format!(
                        "`{name}` is {found:?}, the model's is {expected:?}; was it trained on another base?"
                    ));
                }
            }
            parameter.copy(whole_key(&name, adapted), value)?;
        }
        match whole.iter().flatten().next() {
            None => Ok(()),
            Some((name, _)) => wrong(format!(
                "the model has no tensor `{}` for it; was it trained on another base?",
                name.escape_debug()
            )),
        }
    }

    /// Lets the adapter speak, or the base alone: the reference of preference tuning. Gradients are only for the former.
    pub fn set_adapters(&mut self, on: bool) {
        self.adapters = on;
        self.parameters_mut().for_each(|parameter| parameter.switch(on));
    }

    /// As [`Self::adapter_tensors`], for the base as it was loaded: pairs that took a part of it have twice the rank.
    pub(crate) fn plain_adapter_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors: BTreeMap<String, Tensor> =
            self.adapter_tensors().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        for linear in self.blocks.iter().flat_map(Block::linears).chain(&self.head) {
            let Some(Beside::Lora(lora)) = &linear.adapter else { continue };
            let pair = lora.beside_whole()?.into_iter().flatten();
            tensors.extend(pair.map(|(key, value)| (key.to_owned(), value)));
        }
        Ok(tensors.into_iter().collect())
    }

    /// The attached adapter's tensors as `(key, value)`, PEFT's keys.
    pub(crate) fn adapter_tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.trainables().map(|trainable| (trainable.name.as_str(), &trainable.value))
    }
}
