//! Who runs this command: whose share of the fleet its jobs count to.

use std::env;

/// The user's name as the system has it; empty where it has none.
pub(crate) fn own_user() -> String {
    let named = |key| env::var(key).ok().filter(|name| !name.is_empty());
    named("USER").or_else(|| named("LOGNAME")).unwrap_or_default()
}
