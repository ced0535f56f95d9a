//! `fleetune completions`.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::Failure;
use crate::args::Cli;
use crate::context::Context;

/// Prints a script that completes commands and options.
///
/// For bash: `fleetune completions bash > ~/.local/share/bash-completion/completions/fleetune`
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell to complete in
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "fleetune", &mut script);
        context.output.raw(&String::from_utf8_lossy(&script))
    }
}
