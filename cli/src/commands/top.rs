//! `fleetune top`.

use std::io::IsTerminal;

use clap::Args;

use crate::Failure;
use crate::context::Context;
use crate::tui;

/// Shows the fleet live: cards, running jobs, the queue with its reasons.
#[derive(Debug, Args)]
pub(crate) struct Top {}

impl Top {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if !std::io::stdout().is_terminal() {
            return Err(Failure::new("refused", "`top` needs a terminal on stdout")
                .hint("`fleetune jobs` and `fleetune agents` print the same once"));
        }
        // Told plainly, before the screen is taken.
        let client = context.client()?;
        let fleet = client.overview().await?;
        tui::run(client, fleet).await
    }
}
