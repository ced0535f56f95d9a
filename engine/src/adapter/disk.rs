//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use fleetune_shared::AdapterConfig;

use super::{Adapter, config};
use crate::model::{Model, read_all, write_tensors};
use crate::{EngineError, Result};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Writes the model's adapter into `dir`, which exists.
///
/// # Errors
/// When the model carries none or a file cannot be written.
pub fn save(dir: &Path, model: &Model, config: &AdapterConfig) -> Result<()> {
    if model.adapter_tensors().next().is_none() {
        return Err(EngineError::input("the model carries no adapter to save"));
    }
    write_tensors(&dir.join(TENSORS), model.adapter_tensors())?;
    let path = dir.join(CONFIG);
    let text = format!("{:#}\n", config::to_json(config));
    std::fs::write(&path, text).map_err(|e| EngineError::io(&path, e))
}

/// Reads the adapter in `dir`.
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
    let mut halves: BTreeMap<String, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
    for (key, tensor) in read_all(&path)? {
        let fail = |why: &str| Err(wrong(&path, &format!("tensor `{}` {why}", key.escape_debug())));
        let Some(rest) = key.strip_prefix(PREFIX) else {
            return fail("does not begin with `base_model.model.`, is this PEFT's format?");
        };
        let (module, is_a) =
            match (rest.strip_suffix(".lora_A.weight"), rest.strip_suffix(".lora_B.weight")) {
                (Some(module), _) => (module, true),
                (_, Some(module)) => (module, false),
                _ => {
                    return fail(
                        "is neither lora_A.weight nor lora_B.weight, which is not supported",
                    );
                }
            };
        if config::targets(&config, module) == Some(false) {
            return fail("is of a module that target_modules does not name");
        }
        let rank = tensor.dims().get(usize::from(!is_a)).copied();
        if tensor.rank() != 2 || rank != Some(config.r) {
            let (dims, r) = (tensor.dims(), config.r);
            return fail(&format!("is {dims:?}, which is not of rank {r} as {CONFIG} says"));
        }
        let pair = halves.entry(module.to_owned()).or_default();
        *(if is_a { &mut pair.0 } else { &mut pair.1 }) = Some(tensor);
    }
    if halves.is_empty() {
        return Err(wrong(&path, "holds no tensors"));
    }
    let mut pairs = BTreeMap::new();
    for (module, pair) in halves {
        let (Some(a), Some(b)) = pair else {
            let why = format!("`{}` has only one of lora_A and lora_B", module.escape_debug());
            return Err(wrong(&path, &why));
        };
        pairs.insert(module, (a, b));
    }
    Ok(Adapter::of(config, pairs))
}

fn read_config(path: &Path) -> Result<AdapterConfig> {
    let io = |e| EngineError::io(path, e);
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(wrong(path, &format!("has {bytes} bytes, expected at most 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let config: AdapterConfig =
        serde_json::from_str(&text).map_err(|e| wrong(path, &e.to_string()))?;
    match config::unsupported(&config) {
        None => Ok(config),
        Some(why) => Err(wrong(path, &why)),
    }
}

fn wrong(path: &Path, why: &str) -> EngineError {
    EngineError::input(format!("{}: {why}", path.display()))
}
