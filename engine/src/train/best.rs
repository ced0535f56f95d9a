//! The best model so far, in a file beside the run: whatever learns, in f32.
//!
//! Every checkpoint after it carries a copy, so that a run which goes on elsewhere from one checkpoint alone still ends
//! with its best model.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::tensor::Dtype;

use super::resume::restore_weights;
use crate::model::Model;
use crate::ops::slices;
use crate::tensor_file::{TensorEntry, TensorFile};
use crate::{EngineError, Result};

/// In a checkpoint.
const NAME: &str = "best.safetensors";

/// In the output folder.
fn file_of(out: &Path) -> PathBuf {
    out.join(".best.safetensors")
}

/// Keeps the model as it is now.
pub(super) fn keep(out: &Path, model: &Model) -> Result<()> {
    let entries: Vec<TensorEntry> = model
        .trainables()
        .map(|trainable| TensorEntry {
            name: trainable.name.clone(),
            dtype: Dtype::F32,
            shape: trainable.value.dims().to_vec(),
        })
        .collect();
    let path = file_of(out);
    let unfinished = path.with_extension("tmp");
    let mut file = TensorFile::create(&unfinished, &entries)?;
    for trainable in model.trainables() {
        file.write_f32(&slices::view(&trainable.value.to_dtype(DType::F32)?)?)?;
    }
    file.finish()?;
    fs::rename(&unfinished, &path).map_err(|e| EngineError::io(&path, e))
}

/// Copies it into a checkpoint that is being written.
pub(super) fn copy_into(checkpoint: &Path, out: &Path) -> Result<()> {
    copy(&file_of(out), &checkpoint.join(NAME))
}

/// Takes it out of the checkpoint that a run goes on from.
pub(super) fn take_from(checkpoint: &Path, out: &Path) -> Result<()> {
    copy(&checkpoint.join(NAME), &file_of(out))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(|_| ()).map_err(|e| EngineError::io(from, e))
}

/// Makes the model what it was then.
pub(super) fn restore(out: &Path, model: &mut Model) -> Result<()> {
    restore_weights(model, &file_of(out))
}

/// The run is over.
pub(super) fn forget(out: &Path) -> Result<()> {
    let path = file_of(out);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(EngineError::io(&path, e)),
        _ => Ok(()),
    }
}
