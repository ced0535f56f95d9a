//! What a process that reads anybody's files is kept to: it ends with its parent, leaves no core, and the kernel
//! refuses it more memory than any honest file needs.

use std::fs;

use fleetune_shared::ByteSize;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;

/// What a process may hold beyond the limit it was given before the kernel refuses: threads, buffers, a moment's
/// excess that the engine itself notices and names.
const SLACK: u64 = 1 << 30;

/// Has the kernel end this process with its parent, and makes sure that the parent did not go first.
pub(crate) fn end_with(parent: u32) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("set_pdeathsig: {error}"))?;
    if getppid().as_raw().unsigned_abs() == parent {
        Ok(())
    } else {
        Err(format!("process {parent}, which started this one, is gone"))
    }
}

/// Has the kernel refuse what no honest file needs: `limit` and a quarter, at most the machine's memory, and never
/// more than this process may hold already. Files mapped into memory do not count.
pub(crate) fn bound(limit: ByteSize) -> Result<(), String> {
    let fail = |error| format!("setrlimit: {error}");
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(fail)?;
    let asked = limit.0.saturating_add(limit.0 / 4).saturating_add(SLACK);
    let (_, allowed) = getrlimit(Resource::RLIMIT_DATA).map_err(fail)?;
    let bytes = physical_memory().map_or(asked, |physical| asked.min(physical)).min(allowed);
    setrlimit(Resource::RLIMIT_DATA, bytes, bytes).map_err(fail)
}

fn physical_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
