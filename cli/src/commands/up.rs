//! `fleetune up`.

use std::path::PathBuf;

use clap::Args;
use fleetune_coordinator::Settings;

use super::agent::CardArgs;
use super::coordinator::CoordinatorArgs;
use crate::Failure;
use crate::context::{Context, block_on_to_the_end};
use crate::fleet::{LocalAgent, LocalCoordinator, asked_to_stop, data_folder, listen_to_log};

/// Runs a coordinator and an agent in one process: all a single workstation needs.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    #[command(flatten)]
    card: CardArgs,
}

impl Up {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        listen_to_log("info");
        // One --data-dir holds both.
        let (folder, mut card) = (self.card.data_dir.clone(), self.card);
        let of = |part: &str| match &folder {
            Some(folder) => Ok::<PathBuf, Failure>(folder.join(part)),
            None => data_folder(part),
        };
        if folder.is_some() {
            card.data_dir = Some(of("agent")?);
        }
        let settings =
            Settings { listen: self.coordinator.listen, ..Settings::new(of("coordinator")?) };
        block_on_to_the_end(async {
            let mut coordinator = LocalCoordinator::start(settings).await?;
            let address = coordinator.address();
            context.output.note(&format!(
                "coordinator at {address}, with this machine's card; Ctrl-C stops both"
            ));
            let mut agent = LocalAgent::start(card.settings(&address)?);
            let ended = tokio::select! {
                () = asked_to_stop() => Ok(()),
                ended = coordinator.ended() => ended,
                ended = agent.ended() => ended,
            };
            // The agent first: what its jobs have reached is reported to the coordinator.
            agent.stop().await?;
            coordinator.stop().await?;
            ended
        })
    }
}
