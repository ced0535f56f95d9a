//! What may stand on the command line.

use clap::{Args, Parser};

use crate::commands::Command;
use crate::output::Mode;

/// Distributed fine-tuning for a lab's spare GPUs.
///
/// Start with `fleetune demo`, then `fleetune up` on one machine, or `fleetune coordinator` and `fleetune agent` on
/// several.
#[derive(Debug, Parser)]
#[command(name = "fleetune", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How results are printed on stdout
    #[arg(
        long,
        global = true,
        env = "FLEETUNE_OUTPUT",
        default_value = "table",
        value_name = "MODE",
        help_heading = "Global options"
    )]
    pub(crate) output: Mode,
    /// The coordinator to talk to
    #[arg(
        long,
        global = true,
        env = "FLEETUNE_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_name = "ADDRESS",
        help_heading = "Global options"
    )]
    pub(crate) coordinator: String,
}
