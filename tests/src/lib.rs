//! What end-to-end tests share: a sandbox of real processes, a fleet of them to be measured, and where the fixtures are.

mod process;
pub mod rate;
mod sandbox;
mod slow_line;

use std::path::PathBuf;

pub use process::Process;
pub use sandbox::{Sandbox, free_address};
pub use slow_line::slow_line;

/// A file or folder under `tests/fixtures`.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A file or folder of the demo's assets.
#[must_use]
pub fn demo_asset(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/demo").join(name)
}

/// The real model of the walk-through, where `scripts/fetch-smollm2` has fetched it.
#[must_use]
pub fn smollm2() -> Option<PathBuf> {
    let fetched =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = std::env::var_os("FLEETUNE_SMOLLM2").map_or(fetched, PathBuf::from);
    if path.is_file() {
        Some(path)
    } else {
        eprintln!("skipped: no SmolLM2 at {}; scripts/fetch-smollm2 gets it", path.display());
        None
    }
}
