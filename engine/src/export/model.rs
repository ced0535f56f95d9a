//! A whole model as one GGUF file, tensor by tensor.

use std::path::Path;

use candle_core::Tensor;
use fleetune_shared::{ModelSpec, RopeScaling};

use super::file::{Entry, GgufWriter};
use super::{ExportSummary, NumberType, in_place, metadata, tokenizer};
use crate::memory;
use crate::model::{WeightFiles, gguf_name, in_pairs, spec_of};
use crate::ops::{Frequencies, slices};
use crate::{EngineError, Result};

/// Writes the model at `model`, folder or GGUF, with its tokenizer into the file `out`. Matrices are stored as `kind`,
/// vectors in 32 bits. Holds two copies of the largest tensor.
///
/// # Errors
/// [`EngineError::Input`] when the model or its tokenizer cannot be read or has no place in GGUF; then nothing is left.
pub fn export_model(model: &Path, out: &Path, kind: NumberType) -> Result<ExportSummary> {
    let files = WeightFiles::open(model)?;
    let spec = files.spec();
    let name = model.file_stem().unwrap_or_default().to_string_lossy();
    let mut keys = metadata::of_model(spec, &name, kind);
    keys.extend(tokenizer::of_model(model, spec)?);
    let mut entries = Vec::new();
    let factors = rotary_factors(spec)?;
    for (name, factors) in &factors {
        let shape = factors.dims().to_vec();
        entries.push(Entry { name: (*name).into(), shape, kind: NumberType::F32 });
    }
    let tensors = files.tensors();
    for (name, shape) in &tensors {
        let table = name == "model.embed_tokens.weight" || name == "lm_head.weight";
        let kind = kind.of_tensor(shape, table);
        entries.push(Entry { name: named(name, spec)?, shape: shape.clone(), kind });
    }
    let (count, bytes) = in_place(out, |path| {
        let count = entries.len();
        let mut file = GgufWriter::create(path, &keys, entries)?;
        for (_, factors) in &factors {
            file.put(factors)?;
        }
        for (name, _) in &tensors {
            memory::check()?;
            file.put(&as_stored(name, files.read(name)?, spec)?)?;
        }
        file.finish()?;
        match said_otherwise(path, spec) {
            None => Ok(count),
            Some(what) => Err(EngineError::input(format!(
                "{}: GGUF has no way to say this model's {what}, so llama.cpp would compute something else",
                model.display()
            ))),
        }
    })?;
    Ok(ExportSummary {
        path: out.to_owned(),
        kind: "model",
        architecture: spec.gguf_architecture().into(),
        tensors: count,
        bytes,
    })
}

/// What a reader of the file takes for other than it is, since llama.cpp knows some choices by the architecture alone.
fn said_otherwise(path: &Path, spec: &ModelSpec) -> Option<&'static str> {
    // Factors of rotary frequencies that this engine cannot trace back are llama.cpp's business.
    let read = spec_of(path).ok()?;
    let windows =
        |spec: &ModelSpec| (0..spec.num_hidden_layers).map(|l| spec.window(l)).collect::<Vec<_>>();
    let ignored = spec.gguf_architecture() == "llama";
    let apart = |a: f64, b: f64| (a / b - 1.0).abs() > 1e-5;
    if !ignored && windows(&read) != windows(spec) {
        Some("pattern of sliding windows")
    } else if apart(read.attention_scale(), spec.attention_scale()) {
        Some("`query_pre_attn_scalar`")
    } else if read.rope_local_base_freq != spec.rope_local_base_freq {
        Some("local rotary base")
    } else if read.tie_word_embeddings != spec.tie_word_embeddings {
        Some("tied head")
    } else {
        None
    }
}

/// llama.cpp's name of the tensor `name`.
pub(super) fn named(name: &str, spec: &ModelSpec) -> Result<String> {
    gguf_name(name, spec).ok_or_else(|| {
        EngineError::input(format!("tensor `{name}` has no name in GGUF for this architecture"))
    })
}

/// The numbers of `name` as llama.cpp wants them.
fn as_stored(name: &str, value: Tensor, spec: &ModelSpec) -> Result<Tensor> {
    if spec.norm_unit_offset && name.ends_with("norm.weight") {
        return Ok((value + 1.0)?);
    }
    heads_in_pairs(name, spec).map_or(Ok(value.clone()), |heads| in_pairs(&value, heads))
}

/// Of a projection whose rows llama.cpp reorders, its heads.
pub(super) fn heads_in_pairs(name: &str, spec: &ModelSpec) -> Option<usize> {
    if spec.gguf_architecture() != "llama" {
        return None;
    }
    match name.rsplit('.').nth(1) {
        Some("q_proj") => Some(spec.num_attention_heads),
        Some("k_proj") => Some(spec.num_key_value_heads),
        _ => None,
    }
}

/// Stretched frequencies that GGUF keeps as tensors of factors.
fn rotary_factors(spec: &ModelSpec) -> Result<Vec<(&'static str, Tensor)>> {
    let of = |numbers: Vec<f32>| {
        let length = numbers.len();
        slices::tensor(numbers, &[length])
    };
    let narrow = |factors: &[f64]| of(factors.iter().map(|x| *x as f32).collect());
    Ok(match &spec.rope_scaling {
        Some(RopeScaling::Llama3 { .. }) => {
            let plain = ModelSpec { rope_scaling: None, ..spec.clone() };
            let (plain, stretched) = (Frequencies::of(&plain), Frequencies::of(spec));
            let factors = plain.inverse.iter().zip(&stretched.inverse).map(|(p, s)| p / s);
            vec![("rope_freqs.weight", of(factors.collect())?)]
        }
        Some(RopeScaling::LongRope { short_factor, long_factor, .. }) => vec![
            ("rope_factors_short.weight", narrow(short_factor)?),
            ("rope_factors_long.weight", narrow(long_factor)?),
        ],
        _ => Vec::new(),
    })
}
