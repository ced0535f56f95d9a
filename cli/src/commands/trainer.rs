//! `fleetune trainer`, which agents start.

use std::path::PathBuf;

use clap::Args;

use crate::Failure;

/// Runs one attempt: an order in, events as JSON lines out.
#[derive(Debug, Args)]
pub(crate) struct Trainer {
    /// The order's file
    order: PathBuf,
}

impl Trainer {
    pub(crate) fn run(self) -> Result<(), Failure> {
        // Its exit status is part of what it tells its agent.
        Err(Failure::Status(fleetune_agent::run_child(&self.order)))
    }
}
