//! What every verb gets: where to print, whom to ask.

use std::time::Instant;

use fleetune_proto::Client;
use tokio::runtime::Runtime;

use crate::Failure;
use crate::output::Output;

pub(crate) struct Context {
    /// When the process was started.
    pub(crate) begun: Instant,
    pub(crate) output: Output,
    pub(crate) coordinator: String,
}

impl Context {
    pub(crate) fn new(begun: Instant, output: Output, coordinator: String) -> Self {
        Self { begun, output, coordinator }
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.coordinator)?)
    }
}

/// Runs a verb that talks to others; Ctrl-C ends it with the usual status.
pub(crate) fn block_on<F>(future: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    runtime()?.block_on(async {
        tokio::select! {
            result = future => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted(None)),
        }
    })
}

/// Runs a verb that handles Ctrl-C itself.
pub(crate) fn block_on_to_the_end<F, T>(future: F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    runtime()?.block_on(future)
}

/// The same on this thread alone, for a verb that waits more than it does: its messages to itself pass no other thread.
pub(crate) fn block_on_one_thread<F, T>(future: F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    build(tokio::runtime::Builder::new_current_thread())?.block_on(future)
}

fn runtime() -> Result<Runtime, Failure> {
    build(tokio::runtime::Builder::new_multi_thread())
}

fn build(mut builder: tokio::runtime::Builder) -> Result<Runtime, Failure> {
    let failed = |error| Failure::new("io", format!("starting threads: {error}"));
    builder.enable_all().build().map_err(failed)
}
