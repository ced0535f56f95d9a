//! Going on from a checkpoint: finding it, and taking the model back from it.

use std::path::{Path, PathBuf};

use fleetune_shared::{TrainOrder, TrainerEvent};

use super::Observer;
use crate::checkpoint;
use crate::model::{Model, Shards};
use crate::{EngineError, Result};

/// The checkpoint to go on from, whole, if there is one.
pub(super) fn checkpoint_of(
    order: &TrainOrder,
    observer: &mut dyn Observer,
) -> Result<Option<PathBuf>> {
    let Some(folder) = &order.resume_from else {
        return match checkpoint::latest(&order.out, &mut |_| ())? {
            None => Ok(None),
            Some(earlier) => Err(EngineError::input(format!(
                "{} holds an earlier run's {}; resume it, or choose another output folder",
                order.out.display(),
                earlier.file_name().unwrap_or_default().display()
            ))),
        };
    };
    if checkpoint::is_one(folder) {
        checkpoint::verify(folder)?;
        return Ok(Some(folder.clone()));
    }
    let mut pass_over = |torn: &EngineError| {
        observer.event(TrainerEvent::Log { message: format!("passed over: {torn}") });
    };
    match checkpoint::latest(folder, &mut pass_over)? {
        None if *folder != order.out => Err(EngineError::input(format!(
            "resume_from {}: no whole checkpoint there, expected a checkpoint folder or one that holds some",
            folder.display()
        ))),
        found => Ok(found),
    }
}

/// Replaces the value of everything that learns by the tensor of its name in the file `path`.
pub(super) fn restore_weights(model: &mut Model, path: &Path) -> Result<()> {
    let file = Shards::of_file(path)?;
    for trainable in model.trainables_mut() {
        let value = file.read(&trainable.name)?;
        if value.dims() != trainable.value.dims() {
            let (found, expected) = (value.dims(), trainable.value.dims());
            return Err(EngineError::input(format!(
                "{}: tensor `{}` is {found:?}, expected {expected:?}",
                path.display(),
                trainable.name
            )));
        }
        let held = &trainable.value;
        trainable.value = value.to_dtype(held.dtype())?.to_device(held.device())?;
    }
    Ok(())
}
