//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use fleetune_shared::AdapterConfig;
use fleetune_shared::peft::{AdapterShape, AdapterTargets, ModuleKind};

use super::keys::{Half, Meaning, key, meaning, whole_key};
use super::{Adapter, Layer, LoraLayer, ScaleLayer};
use crate::model::{Identity, Model, metadata, read_all, write_tensors};
use crate::{EngineError, Result};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// The metadata key under which the identity of the base stands as JSON.
const BASE: &str = "fleetune.base";
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Writes the model's adapter into `dir`, which exists.
///
/// # Errors
/// When the model carries none or a file cannot be written.
pub fn save(dir: &Path, model: &Model, config: &AdapterConfig) -> Result<()> {
    if model.adapter_tensors().next().is_none() {
        return Err(EngineError::input("the model carries no adapter to save"));
    }
    write_marked(dir, model.adapter_tensors(), model.identity.as_ref())?;
    write_config(dir, config)
}

/// Writes an adapter that lies beside no model into `dir`, which exists.
pub(crate) fn write(dir: &Path, adapter: &Adapter) -> Result<()> {
    let mut tensors = Vec::new();
    for (module, layer) in adapter.layers() {
        let mut add = |half, tensor: &Tensor| tensors.push((key(module, half), tensor.clone()));
        match layer {
            Layer::Scale(layer) => add(Half::Scale, &layer.scale),
            Layer::Lora(layer) => {
                let embedding = layer.embedding;
                add(if embedding { Half::EmbeddingA } else { Half::A }, &layer.a);
                add(if embedding { Half::EmbeddingB } else { Half::B }, &layer.b);
                if let Some(bias) = &layer.bias {
                    add(Half::BBias, bias);
                }
                if let Some(magnitude) = &layer.magnitude {
                    add(Half::Magnitude, magnitude);
                }
            }
        }
    }
    for (name, tensor) in adapter.whole() {
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        tensors.push((whole_key(name, adapter.layer(module).is_some()), tensor.clone()));
    }
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_marked(dir, named, adapter.base())?;
    write_config(dir, adapter.config())
}

/// Writes the model's adapter into `dir` as what a user takes away: for the base as it was loaded. An adapter that took
/// a part of the base (PiSSA, OLoRA) becomes a plain one of twice the rank, as PEFT's
/// `path_initial_model_for_weight_conversion` makes it.
///
/// # Errors
/// As [`save`].
pub fn save_plain(dir: &Path, model: &Model, config: &AdapterConfig) -> Result<()> {
    if !config.init_lora_weights.changes_base() {
        return save(dir, model, config);
    }
    let tensors = model.plain_adapter_tensors()?;
    let named = tensors.iter().map(|(key, value)| (key.as_str(), value));
    write_marked(dir, named, model.identity.as_ref())?;
    write_config(dir, &config.doubled())
}

/// Writes the tensors with the identity of their base, which stays with them wherever the file goes.
fn write_marked<'a>(
    dir: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
    base: Option<&Identity>,
) -> Result<()> {
    let path = dir.join(TENSORS);
    let text = base.map(serde_json::to_string).transpose().map_err(std::io::Error::other);
    let text = text.map_err(|e| EngineError::io(&path, e))?;
    write_tensors(&path, tensors, text.map(|text| (BASE, text)))
}

fn write_config(dir: &Path, config: &AdapterConfig) -> Result<()> {
    let path = dir.join(CONFIG);
    let text = format!("{:#}\n", config.to_json());
    std::fs::write(&path, text).map_err(|e| EngineError::io(&path, e))
}

/// Reads the adapter in `dir`, which PEFT or this engine wrote.
///
/// # Errors
/// [`EngineError::Input`] naming file, key or tensor when the folder is incomplete, damaged, of a kind that is not
/// supported, or when tensors and configuration disagree.
pub fn load(dir: &Path) -> Result<Adapter> {
    let config = read_config(&dir.join(CONFIG))?;
    let path = dir.join(TENSORS);
    if !path.is_file() {
        let why = if dir.join("adapter_model.bin").exists() {
            "has only adapter_model.bin, a pickle, which runs code when read; save it as safetensors"
        } else {
            "has no adapter_model.safetensors"
        };
        return Err(wrong(dir, why));
    }
    let targets =
        AdapterTargets::of(&config).map_err(|e| wrong(&dir.join(CONFIG), &e.to_string()))?;
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    let mut whole = BTreeMap::new();
    for (key, tensor) in read_all(&path)? {
        let fail = |why: &str| Err(wrong(&path, &format!("tensor `{}` {why}", key.escape_debug())));
        match meaning(&key, &config) {
            Meaning::Of(module, half) => {
                let kind = match half {
                    Half::EmbeddingA | Half::EmbeddingB => ModuleKind::Embedding,
                    _ if module.ends_with("lm_head") => ModuleKind::Head,
                    _ => ModuleKind::Linear,
                };
                let Some(shape) = targets.shape(module, kind) else {
                    return fail("is of a module that target_modules does not name");
                };
                if let Err(why) = check(half, &tensor, shape) {
                    return fail(&why);
                }
                let parts = parts.entry(module.to_owned()).or_insert_with(|| Parts::of(shape));
                parts.tensors.push((half, tensor));
            }
            Meaning::Whole(name) => drop(whole.insert(name, tensor)),
            // Nothing was trained in it.
            Meaning::Copy => {}
            Meaning::Foreign => {
                return fail("does not begin with `base_model.model.`, is this PEFT's format?");
            }
            Meaning::Unknown => return fail("is of a kind that is not supported"),
        }
    }
    if parts.is_empty() && whole.is_empty() {
        return Err(wrong(&path, "holds no tensors"));
    }
    let mut layers = BTreeMap::new();
    for (module, parts) in parts {
        let layer = parts.layer(&config);
        let layer =
            layer.map_err(|why| wrong(&path, &format!("`{}` {why}", module.escape_debug())))?;
        layers.insert(module, layer);
    }
    // What another version wrote in its own way tells nothing here.
    let base = metadata(&path, BASE)?.and_then(|text| serde_json::from_str(&text).ok());
    Ok(Adapter::of(config, layers, Some(whole)).with_base(base))
}

/// The tensors found for one module.
struct Parts {
    shape: AdapterShape,
    tensors: Vec<(Half, Tensor)>,
}

impl Parts {
    fn of(shape: AdapterShape) -> Self {
        Self { shape, tensors: Vec::new() }
    }

    fn take(&mut self, half: Half) -> Option<Tensor> {
        let at = self.tensors.iter().position(|(other, _)| *other == half)?;
        Some(self.tensors.swap_remove(at).1)
    }

    fn layer(mut self, config: &AdapterConfig) -> Result<Layer, String> {
        let layer = match self.shape {
            AdapterShape::Scale { feedforward } => {
                let scale = self.take(Half::Scale).ok_or("has no ia3_l")?;
                Layer::Scale(ScaleLayer { scale, feedforward })
            }
            AdapterShape::Lora { scaling, .. } => {
                let embedding = self.tensors.iter().any(|(half, _)| *half == Half::EmbeddingA);
                let (a, b) = if embedding {
                    (self.take(Half::EmbeddingA), self.take(Half::EmbeddingB))
                } else {
                    (self.take(Half::A), self.take(Half::B))
                };
                let (Some(a), Some(b)) = (a, b) else {
                    return Err("has only one of lora_A and lora_B".into());
                };
                let bias = self.take(Half::BBias);
                let magnitude = self.take(Half::Magnitude);
                for (key, asked, tensor, name) in [
                    ("use_dora", config.use_dora, &magnitude, "lora_magnitude_vector"),
                    ("lora_bias", config.lora_bias, &bias, "lora_B.bias"),
                ] {
                    if asked && tensor.is_none() {
                        return Err(format!("has no {name}, but `{key}` is true in {CONFIG}"));
                    }
                    if let Some(tensor) = tensor {
                        if !asked {
                            return Err(format!("has a {name}, but `{key}` is false in {CONFIG}"));
                        }
                        let (found, expected) = (tensor.dims(), [b.dims()[0]]);
                        if found != expected {
                            return Err(format!(
                                "has a {name} of {found:?}, expected {expected:?}"
                            ));
                        }
                    }
                }
                Layer::Lora(LoraLayer { a, b, bias, magnitude, scaling, embedding })
            }
        };
        match self.tensors.first() {
            None => Ok(layer),
            Some((half, _)) => Err(format!("has a tensor ({half:?}) that does not belong there")),
        }
    }
}

/// Checks a tensor's own shape.
fn check(half: Half, tensor: &Tensor, shape: AdapterShape) -> Result<(), String> {
    let dims = tensor.dims();
    match (half, shape) {
        (Half::Scale, AdapterShape::Scale { feedforward }) => {
            let one = dims.get(usize::from(!feedforward));
            let side = if feedforward { "[1, in]" } else { "[out, 1]" };
            if dims.len() == 2 && one == Some(&1) {
                Ok(())
            } else {
                Err(format!("is {dims:?}, expected {side}"))
            }
        }
        (Half::BBias | Half::Magnitude, AdapterShape::Lora { .. }) => Ok(()),
        (_, AdapterShape::Lora { r, .. }) if half != Half::Scale => {
            let is_a = matches!(half, Half::A | Half::EmbeddingA);
            if dims.len() == 2 && dims[usize::from(!is_a)] == r {
                Ok(())
            } else {
                Err(format!("is {dims:?}, which is not of rank {r} as {CONFIG} says"))
            }
        }
        _ => Err(format!("does not belong to the `peft_type` of {CONFIG}")),
    }
}

fn read_config(path: &Path) -> Result<AdapterConfig> {
    let io = |e| EngineError::io(path, e);
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(wrong(path, &format!("has {bytes} bytes, expected at most 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    AdapterConfig::read(&text).map_err(|why| wrong(path, &why))
}

fn wrong(path: &Path, why: &str) -> EngineError {
    EngineError::input(format!("{}: {why}", path.display()))
}
