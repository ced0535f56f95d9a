//! Where things lie that more than one of these tests look for.

use std::path::{Path, PathBuf};

/// The real SmolLM2-135M-Instruct: `FLEETUNE_SMOLLM2`, or `models/` after `scripts/fetch-smollm2`. Where it is not, a
/// line says why there is no test.
pub(crate) fn smollm2() -> Option<PathBuf> {
    let fetched =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = std::env::var_os("FLEETUNE_SMOLLM2").map_or(fetched, PathBuf::from);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: no {}; run scripts/fetch-smollm2 or set FLEETUNE_SMOLLM2", path.display());
    None
}
