//! What a recipe's data names mean on this machine: files, folders, patterns, and data sets of the Hugging Face hub.

use std::path::PathBuf;

use fleetune_engine::data;
use fleetune_shared::DataFiles;
use fleetune_shared::recipe::{DataSettings, HeldOut};

use super::RecipeOnDisk;
use crate::Failure;
use crate::hub::{self, Hub};

/// Splits that a set of its own for evaluation is looked for under.
const EVAL_SPLITS: [&str; 2] = ["validation", "test"];

/// Every file of a recipe's data; what is on the hub is fetched.
pub(super) fn files(disk: &RecipeOnDisk, settings: &DataSettings) -> Result<DataFiles, Failure> {
    let one = |name: &String| set(disk, name, settings, &settings.split);
    let sets = settings.paths.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let mut held_out = Vec::new();
    if let HeldOut::Sets(names) = &settings.held_out {
        for name in names {
            let splits = EVAL_SPLITS.iter().copied().chain([settings.split.as_str()]);
            let mut found = Err(Failure::new("input", format!("{name}: nothing there")));
            for split in splits {
                found = set(disk, name, settings, split);
                if found.is_ok() {
                    break;
                }
            }
            held_out.extend(found?);
        }
    }
    let cache = hub::cache_folder().map(|folder| folder.join("tokens"));
    Ok(DataFiles { sets, held_out, cache })
}

fn set(
    disk: &RecipeOnDisk,
    name: &str,
    settings: &DataSettings,
    split: &str,
) -> Result<Vec<PathBuf>, Failure> {
    let path = disk.resolve(name);
    let config = settings.config.as_deref();
    if !path.exists() && hub::is_id(name) {
        return Hub::from_environment()?.data_set(name, config, split);
    }
    let files = data::files_of(&path, config, split)?;
    for path in &files {
        let meta = std::fs::metadata(path).map_err(|error| {
            Failure::io(path, &error).hint("`dataset_name` is relative to the recipe's folder")
        })?;
        if !meta.is_file() {
            let expected = "is not a regular file, expected JSON, JSONL, CSV or Parquet";
            return Err(Failure::new("input", format!("{}: {expected}", path.display())));
        }
    }
    Ok(files)
}
