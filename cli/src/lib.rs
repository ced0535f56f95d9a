//! The command line: one file per verb in `commands`, everything shown by `output`, the live screen in `tui`.
//!
//! ```text
//!   argv ─▶ args ─▶ commands/<verb> ─▶ fleet (client, following jobs) ─▶ output ─▶ stdout, stderr, exit status
//!                        └─▶ recipe (paths, sizes, uploads)
//! ```

mod args;
mod commands;
mod context;
mod failure;
mod fleet;
mod hub;
mod output;
mod recipe;
mod tui;

use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, FromArgMatches};
use fleetune_agent::{Confined, confine};

use args::Cli;
use commands::Command;
use context::Context;
use failure::Failure;
use output::{Mode, Output};

/// Runs the program on the process's arguments.
#[must_use]
pub fn run() -> ExitCode {
    let begun = Instant::now();
    let cli = match Cli::command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(cli.global.output);
    let context = Context::new(begun, output, cli.global.coordinator);
    match confined(&cli.command).and_then(|()| commands::run(cli.command, &context)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => context.output.fail(&failure),
    }
}

/// Has a child with limits run what reads files that may be anybody's; this process then only tells how it ended.
fn confined(command: &Command) -> Result<(), Failure> {
    if !command.reads_files() {
        return Ok(());
    }
    match confine().map_err(|error| Failure::new("io", format!("the child process: {error}")))? {
        Confined::Child => Ok(()),
        Confined::Parent(fate) => Err(Failure::of_child(fate)),
    }
}

/// Help and version go to stdout, mistakes to stderr, or to stdout where JSON was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let mode = Mode::guess(std::env::args());
    if error.use_stderr() && mode == Mode::Json {
        let text = error.to_string();
        let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        return Output::new(mode).fail(&Failure::usage(text));
    }
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}
