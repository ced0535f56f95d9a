//! What a run leaves behind: a PEFT adapter or a whole model, and the report.

use std::fs::{self, File};
use std::path::Path;

use fleetune_shared::AdapterConfig;
use serde::Serialize;

use crate::model::{self, Model};
use crate::{EngineError, Result, adapter};

const REPORT: &str = "report.json";
const TEMPLATE: &str = "chat_template.jinja";
const UNFINISHED: &str = ".result.tmp";

/// The file that holds what was trained.
pub(super) fn weights_file(adapter: Option<&AdapterConfig>) -> &'static str {
    if adapter.is_some() { "adapter_model.safetensors" } else { "model.safetensors" }
}

/// Writes the adapter, or the whole model with what belongs to it, into `folder`.
pub(super) fn save(
    folder: &Path,
    model: &Model,
    adapter: Option<&AdapterConfig>,
    base: &Path,
) -> Result<()> {
    match adapter {
        Some(config) => adapter::save(folder, model, config),
        None => model::save(folder, model, base),
    }
}

/// Writes the template that was learned beside what learned it, so that it is asked the same way.
pub(super) fn save_template(folder: &Path, template: Option<&str>) -> Result<()> {
    let Some(template) = template else { return Ok(()) };
    let path = folder.join(TEMPLATE);
    fs::write(&path, template).map_err(|e| EngineError::io(&path, e))
}

/// As [`save`], for a user to take away: the adapter fits the base as it was.
pub(super) fn save_final(
    folder: &Path,
    model: &Model,
    adapter: Option<&AdapterConfig>,
    base: &Path,
) -> Result<()> {
    match adapter {
        Some(config) => adapter::save_plain(folder, model, config),
        None => model::save(folder, model, base),
    }
}

/// Has `fill` write the result into a folder of its own, and moves it into `out` once it is on disk; the report
/// comes last, so where it stands the result is complete.
pub(crate) fn publish<S: Serialize>(
    out: &Path,
    fill: impl FnOnce(&Path) -> Result<S>,
) -> Result<S> {
    let unfinished = out.join(UNFINISHED);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(|e| EngineError::io(&unfinished, e))?;
    }
    fs::create_dir_all(&unfinished).map_err(|e| EngineError::io(&unfinished, e))?;
    let summary = fill(&unfinished)?;
    let report = serde_json::to_vec_pretty(&summary).map_err(std::io::Error::other);
    report
        .and_then(|report| {
            let path = unfinished.join(REPORT);
            fs::write(&path, report)?;
            let mut files = fs::read_dir(&unfinished)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<std::io::Result<Vec<_>>>()?;
            files.sort_by_key(|name| name == REPORT);
            for name in files {
                File::open(unfinished.join(&name))?.sync_all()?;
                fs::rename(unfinished.join(&name), out.join(&name))?;
            }
            fs::remove_dir(&unfinished)?;
            File::open(out)?.sync_all()
        })
        .map_err(|e| EngineError::io(out, e))?;
    Ok(summary)
}
