//! A LoRA adapter as a GGUF file, as llama.cpp's `convert_lora_to_gguf.py` lays it out: `NAME.lora_a` `[r, in]` and
//! `NAME.lora_b` `[out, r]`, one alpha for all, divided by each module's own rank when it is applied.

use std::path::Path;

use fleetune_shared::ModelSpec;

use super::file::{Entry, GgufWriter, Value};
use super::model::{heads_in_pairs, named};
use super::{ExportSummary, NumberType, in_place};
use crate::adapter::{self, Adapter, Layer};
use crate::model::{in_pairs, spec_of};
use crate::{EngineError, Result};

/// Writes the adapter in the PEFT folder `folder`, made for the model at `base`, into the file `out`.
///
/// # Errors
/// [`EngineError::Input`] when adapter and base do not belong together or llama.cpp has no place for what it holds.
pub fn export_adapter(
    folder: &Path,
    base: &Path,
    out: &Path,
    kind: NumberType,
) -> Result<ExportSummary> {
    let adapter = adapter::load(folder)?;
    let spec = spec_of(base)?;
    adapter.fits(&spec)?;
    if let Some(why) = refused(&adapter) {
        return Err(EngineError::input(format!("{}: {why}", folder.display())));
    }
    let alpha = adapter.config().lora_alpha;
    let text = |text: &str| Value::Text(text.to_owned());
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let keys = [
        ("general.architecture".to_owned(), text(spec.gguf_architecture())),
        ("general.type".to_owned(), text("adapter")),
        ("adapter.type".to_owned(), text("lora")),
        ("general.name".to_owned(), text(&name)),
        ("general.file_type".to_owned(), Value::U32(kind.file_type())),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha as f32)),
    ];
    let tensors = tensors(&adapter, &spec)?;
    let entry = |(name, tensor): &(String, candle_core::Tensor)| {
        let shape = tensor.dims().to_vec();
        let kind = kind.of_tensor(&shape, false);
        Entry { name: name.clone(), shape, kind }
    };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let (count, bytes) = in_place(out, |path| {
        let mut file = GgufWriter::create(path, &keys, entries)?;
        for (_, tensor) in &tensors {
            file.put(tensor)?;
        }
        file.finish()?;
        Ok(tensors.len())
    })?;
    Ok(ExportSummary {
        path: out.to_owned(),
        kind: "adapter",
        architecture: spec.gguf_architecture().into(),
        tensors: count,
        bytes,
    })
}

/// What llama.cpp cannot apply.
fn refused(adapter: &Adapter) -> Option<&'static str> {
    let config = adapter.config();
    if adapter.layers().any(|(_, layer)| matches!(layer, Layer::Scale(_))) {
        Some("is IA³, which llama.cpp does not know; merge it into its base and export that")
    } else if config.use_dora {
        Some("is DoRA, which llama.cpp does not know; merge it into its base and export that")
    } else if config.lora_bias || adapter.whole().next().is_some() {
        Some(
            "holds biases or modules trained whole, which llama.cpp does not apply; merge it into its base and export \
             that",
        )
    } else if config.init_lora_weights.changes_base() {
        Some("began by changing its base, so it fits no base on disk")
    } else if config.lora_alpha == 0.0 {
        Some("has `lora_alpha` 0, so it changes nothing")
    } else {
        None
    }
}

fn tensors(adapter: &Adapter, spec: &ModelSpec) -> Result<Vec<(String, candle_core::Tensor)>> {
    let mut all = Vec::new();
    for (module, layer) in adapter.layers() {
        let Layer::Lora(layer) = layer else { continue };
        let weight = format!("{module}.weight");
        let name = named(&weight, spec)?;
        // llama.cpp computes alpha / r for every module; rsLoRA and patterns ask for something else.
        let r = layer.a.dim(0)? as f64;
        let factor = layer.scaling * r / adapter.config().lora_alpha;
        let b = if factor == 1.0 { layer.b.clone() } else { (&layer.b * factor)? };
        let b = heads_in_pairs(&weight, spec).map_or(Ok(b.clone()), |h| in_pairs(&b, h))?;
        // Rows of an embedding's A are looked up by token.
        let a = if layer.embedding { layer.a.t()?.contiguous()? } else { layer.a.clone() };
        all.push((format!("{name}.lora_a"), a));
        all.push((format!("{name}.lora_b"), b));
    }
    Ok(all)
}
