//! `fleetune agents`.

use clap::Args;

use crate::Failure;
use crate::context::Context;
use crate::output::AgentList;

/// Lists agents, their cards and what is promised on them.
#[derive(Debug, Args)]
pub(crate) struct Agents {}

impl Agents {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let agents = context.client()?.overview().await?.agents;
        context.output.show(&AgentList::new(&agents))
    }
}
