//! Keys about what learns, and how the rest is held.

use std::collections::BTreeMap;

use super::super::words::{Dtype, OneOrManyLayers, PeftType, SwitchOrWord, TargetModules};
use super::super::{
    FourBit, Freeze, Ia3, Lora, LoraInit, Method, Quantization, RecipeError, RecipeFile, Targets,
};
use super::range::{SMALLEST, count, number, refuse};
use crate::peft::compile;

pub(super) fn method(file: &RecipeFile) -> Result<Method, RecipeError> {
    let ia3 = file.peft_type == Some(PeftType::Ia3);
    let full = !file.use_peft.unwrap_or(true);
    let only_lora = [
        ("r", file.r.is_some()),
        ("lora_alpha", file.lora_alpha.is_some()),
        ("lora_dropout", file.lora_dropout.is_some()),
        ("use_rslora", file.use_rslora.is_some()),
        ("use_dora", file.use_dora.is_some()),
        ("init_lora_weights", file.init_lora_weights.is_some()),
        ("exclude_modules", file.exclude_modules.is_some()),
        ("layers_to_transform", file.layers_to_transform.is_some()),
        ("rank_pattern", file.rank_pattern.is_some()),
        ("alpha_pattern", file.alpha_pattern.is_some()),
        ("bias", file.bias.is_some()),
        ("lora_bias", file.lora_bias.is_some()),
        ("loraplus_lr_ratio", file.loraplus_lr_ratio.is_some()),
    ];
    let any_adapter = [
        ("peft_type", file.peft_type.is_some()),
        ("target_modules", file.target_modules.is_some()),
        ("modules_to_save", file.modules_to_save.is_some()),
        ("init_adapter", file.init_adapter.is_some()),
    ];
    let only_full = [
        ("freeze_trainable_layers", file.freeze_trainable_layers.is_some()),
        ("unfrozen_parameters", file.unfrozen_parameters.is_some()),
        ("optimizer_in_backward", file.optimizer_in_backward == Some(true)),
    ];
    let only_ia3 = [("feedforward_modules", file.feedforward_modules.is_some())];
    if full {
        absent(&any_adapter, "where `use_peft` is false")?;
        absent(&only_lora, "where `use_peft` is false")?;
        absent(&only_ia3, "where `use_peft` is false")?;
        return freeze(file);
    }
    absent(&only_full, "unless `use_peft` is false")?;
    if ia3 {
        absent(&only_lora, "where `peft_type` is IA3")?;
        return Ok(Method::Ia3(Ia3 {
            target_modules: targets("target_modules", file.target_modules.as_ref())?,
            feedforward_modules: targets("feedforward_modules", file.feedforward_modules.as_ref())?,
            modules_to_save: names("modules_to_save", file.modules_to_save.as_ref())?,
        }));
    }
    absent(&only_ia3, "unless `peft_type` is IA3")?;
    lora(file).map(Method::Lora)
}

/// The first key that is set is refused.
pub(super) fn absent(keys: &[(&str, bool)], when: &str) -> Result<(), RecipeError> {
    match keys.iter().find(|(_, set)| *set) {
        Some((key, _)) => refuse(key, "set", format!("absent {when}")),
        None => Ok(()),
    }
}

fn freeze(file: &RecipeFile) -> Result<Method, RecipeError> {
    let patterns = names("unfrozen_parameters", file.unfrozen_parameters.as_ref())?;
    for pattern in &patterns {
        regex("unfrozen_parameters", pattern)?;
    }
    match file.freeze_trainable_layers {
        None if file.unfrozen_parameters.is_none() => Ok(Method::Full),
        Some(layers) if layers == 0 || layers.unsigned_abs() > 4096 => refuse(
            "freeze_trainable_layers",
            layers,
            "a number of blocks, negative for the first ones",
        ),
        layers => Ok(Method::Freeze(Freeze { layers: layers.unwrap_or(0), patterns })),
    }
}

fn lora(file: &RecipeFile) -> Result<Lora, RecipeError> {
    let rank_pattern = file.rank_pattern.clone().unwrap_or_default();
    for (module, r) in &rank_pattern {
        count(&format!("rank_pattern.{module}"), Some(*r), 1, 1, 65_536)?;
        regex("rank_pattern", module)?;
    }
    let alpha_pattern: BTreeMap<String, f64> = file.alpha_pattern.clone().unwrap_or_default();
    for (module, alpha) in &alpha_pattern {
        number(&format!("alpha_pattern.{module}"), Some(*alpha), 1.0, SMALLEST, 1e6)?;
        regex("alpha_pattern", module)?;
    }
    Ok(Lora {
        r: count("r", file.r, 8, 1, 65_536)?,
        lora_alpha: number("lora_alpha", file.lora_alpha, 8.0, SMALLEST, 1e6)?,
        dropout: number("lora_dropout", file.lora_dropout, 0.0, 0.0, 0.999)?,
        use_rslora: file.use_rslora.unwrap_or(false),
        use_dora: file.use_dora.unwrap_or(false),
        init: init(file.init_lora_weights.as_ref())?,
        target_modules: targets("target_modules", file.target_modules.as_ref())?
            .unwrap_or_default(),
        exclude_modules: targets("exclude_modules", file.exclude_modules.as_ref())?,
        layers_to_transform: file.layers_to_transform.as_ref().map(OneOrManyLayers::to_vec),
        rank_pattern,
        alpha_pattern,
        modules_to_save: names("modules_to_save", file.modules_to_save.as_ref())?,
        bias: file.bias.unwrap_or_default(),
        lora_bias: file.lora_bias.unwrap_or(false),
    })
}

fn init(value: Option<&SwitchOrWord>) -> Result<LoraInit, RecipeError> {
    let word = match value {
        None | Some(SwitchOrWord::Switch(true)) => return Ok(LoraInit::Default),
        Some(SwitchOrWord::Switch(false)) => return Ok(LoraInit::NonZero),
        Some(SwitchOrWord::Word(word)) => word.as_str(),
    };
    let niter = word.strip_prefix("pissa_niter_").and_then(|n| n.parse::<usize>().ok());
    match (word, niter) {
        ("gaussian", _) => Ok(LoraInit::Gaussian),
        ("orthogonal", _) => Ok(LoraInit::Orthogonal),
        ("pissa", _) => Ok(LoraInit::Pissa { niter: None }),
        (_, Some(niter)) if niter <= 1024 => Ok(LoraInit::Pissa { niter: Some(niter) }),
        ("olora", _) => Ok(LoraInit::Olora),
        ("loftq", _) => Ok(LoraInit::Loftq),
        _ => refuse(
            "init_lora_weights",
            word,
            "true, false, gaussian, orthogonal, pissa, pissa_niter_N, olora or loftq",
        ),
    }
}

fn targets(
    key: &'static str,
    value: Option<&TargetModules>,
) -> Result<Option<Targets>, RecipeError> {
    Ok(match value {
        None => None,
        Some(TargetModules::Word(word)) if word == "all-linear" => Some(Targets::AllLinear),
        Some(TargetModules::Word(pattern)) => {
            regex(key, pattern)?;
            Some(Targets::Regex(pattern.clone()))
        }
        Some(TargetModules::Names(names)) if names.is_empty() => {
            return refuse(key, "an empty list", "`all-linear`, names or a regular expression");
        }
        Some(TargetModules::Names(list)) => Some(Targets::Names(names(key, Some(list))?)),
    })
}

fn names(key: &str, value: Option<&Vec<String>>) -> Result<Vec<String>, RecipeError> {
    let names = value.cloned().unwrap_or_default();
    match names.iter().find(|name| name.trim().is_empty() || name.contains('\0')) {
        Some(name) => refuse(key, format!("{name:?}"), "names"),
        None => Ok(names),
    }
}

fn regex(key: &str, pattern: &str) -> Result<(), RecipeError> {
    match compile(pattern) {
        Ok(_) => Ok(()),
        Err(_) => refuse(key, pattern, "a regular expression without look-around"),
    }
}

pub(super) fn quantization(
    file: &RecipeFile,
    method: &Method,
) -> Result<Quantization, RecipeError> {
    let (four, eight) = (file.load_in_4bit == Some(true), file.load_in_8bit == Some(true));
    if !method.makes_adapter() {
        let keys = [("load_in_4bit", four), ("load_in_8bit", eight)];
        absent(&keys, "where `use_peft` is false: quantised weights cannot learn")?;
    }
    if four {
        absent(&[("load_in_8bit", eight)], "where `load_in_4bit` is true")?;
        return Ok(Quantization::FourBit(FourBit {
            kind: file.bnb_4bit_quant_type.unwrap_or_default(),
            double: file.bnb_4bit_use_double_quant.unwrap_or(false),
            bfloat16: file.dtype == Some(Dtype::Bfloat16),
        }));
    }
    let keys = [
        ("bnb_4bit_quant_type", file.bnb_4bit_quant_type.is_some()),
        ("bnb_4bit_use_double_quant", file.bnb_4bit_use_double_quant.is_some()),
    ];
    absent(&keys, "unless `load_in_4bit` is true")?;
    Ok(match file.dtype {
        _ if eight => Quantization::EightBit,
        Some(Dtype::Bfloat16) => Quantization::Bfloat16,
        None if method.makes_adapter() => Quantization::AsStored,
        Some(Dtype::Float32) | None => Quantization::Float32,
    })
}
