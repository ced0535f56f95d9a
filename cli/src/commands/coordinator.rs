//! `fleetune coordinator`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use fleetune_coordinator::{LISTEN_DEFAULT, ServeError, Settings, serve};

use crate::Failure;
use crate::context::{Context, block_on_to_the_end};
use crate::fleet::{asked_to_stop, data_folder, listen_to_log};

/// Runs a coordinator until it is stopped: it keeps the queue, places jobs, stores adapters.
///
/// It answers whoever can reach it; listen beyond this machine only on a network you trust.
#[derive(Debug, Args)]
pub(crate) struct Coordinator {
    #[command(flatten)]
    args: CoordinatorArgs,
    /// Where jobs, adapters and the log are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    /// The address to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value_t = LISTEN_DEFAULT)]
    pub(crate) listen: SocketAddr,
}

impl Coordinator {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        listen_to_log("info");
        let folder = match self.data_dir {
            Some(folder) => folder,
            None => data_folder("coordinator")?,
        };
        let settings = Settings { listen: self.args.listen, ..Settings::new(folder) };
        let output = &context.output;
        let ready = |address: SocketAddr| {
            output.note(&format!("coordinator at http://{address}; Ctrl-C stops it"));
        };
        block_on_to_the_end(async {
            Box::pin(serve(settings, ready, asked_to_stop())).await.map_err(failed)
        })
    }
}

/// A coordinator's own error, as it is shown.
pub(super) fn failed(error: ServeError) -> Failure {
    Failure::new("coordinator", error.to_string())
}
