//! A command that reads anybody's files, carried out by a child with limits.
//!
//! ```text
//!   fleetune merge …  ──the same line──▶  fleetune merge …   reads the files, prints, may be refused memory
//!        │ waits, passes signals on  ◀──how it ended──┘
//!        ▼
//!   the exit status, or an error where the child could not say one
//! ```
//!
//! A trainer is the same for a run that somebody else ordered, see `crate::trainer`; both are kept to `crate::bounds`.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::{env, io, process};

use fleetune_shared::ByteSize;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::bounds::{bound, end_with};
use crate::oom_kills::OomKills;

/// In the child's environment: the process it ends with.
const PARENT: &str = "FLEETUNE_CONFINED_BY";

/// Which of the two this process is.
#[derive(Debug)]
pub enum Confined {
    /// The child: it has its limits and goes on.
    Child,
    /// The parent: everything is done.
    Parent(Fate),
}

/// How a confined child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// By itself, with this status, after it said what there was to say.
    Exited(u8),
    /// It was refused the memory it asked for.
    OutOfMemory,
    /// By a signal that somebody sent it or that it raised.
    Ended(Signal),
}

/// Begins to confine this process's command line: called before anything else, it returns at once in the child and
/// after the child's end in the parent. Interrupts and requests to terminate are passed on to the child, which answers
/// them as it would alone.
///
/// # Errors
/// When no child can be started, or when limits cannot be set in it.
pub fn confine() -> io::Result<Confined> {
    if let Some(parent) = env::var_os(PARENT) {
        let parent = parent.to_str().and_then(|text| text.parse().ok());
        let parent =
            parent.ok_or_else(|| io::Error::other(format!("{PARENT} is no process number")))?;
        end_with(parent).and_then(|()| bound(ByteSize(u64::MAX))).map_err(io::Error::other)?;
        return Ok(Confined::Child);
    }
    // One thread, this one: the child asks the kernel to end it with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise()).map(Confined::Parent)
}

async fn supervise() -> io::Result<Fate> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let oom_kills_before = OomKills::now();
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(PARENT, process::id().to_string())
        // A terminal's Ctrl-C reaches it through this process, and so once.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let pass_on = |signal| {
        if let Some(pid) = pid {
            // It may have ended a moment ago.
            let _ = kill(pid, signal);
        }
    };
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            Some(()) = interrupts.recv() => pass_on(Signal::SIGINT),
            Some(()) = terminations.recv() => pass_on(Signal::SIGTERM),
        }
    };
    Ok(fate(status, oom_kills_before.more_by_now()))
}

/// Reads the child's end. `memory_ran_out`: the kernel ended some process for lack of memory meanwhile.
fn fate(status: ExitStatus, memory_ran_out: bool) -> Fate {
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    match signal {
        // What an allocation that is refused ends in.
        Some(Signal::SIGABRT) => Fate::OutOfMemory,
        Some(Signal::SIGKILL) if memory_ran_out => Fate::OutOfMemory,
        Some(signal) => Fate::Ended(signal),
        None => Fate::Exited(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_its_status() {
        let ended = |raw, ran_out| fate(ExitStatus::from_raw(raw), ran_out);
        assert_eq!(ended(2 << 8, false), Fate::Exited(2));
        assert_eq!(ended(6, false), Fate::OutOfMemory);
        assert_eq!(ended(9, true), Fate::OutOfMemory);
        assert_eq!(ended(9, false), Fate::Ended(Signal::SIGKILL));
        assert_eq!(ended(2, false), Fate::Ended(Signal::SIGINT));
    }
}
