//! `fleetune estimate --history`.

use crate::Failure;
use crate::context::Context;
use crate::output::Learned;

/// Shows how good the fleet's estimates were, and what it learned from that.
pub(super) async fn show(context: &Context) -> Result<(), Failure> {
    let history = context.client()?.history().await?;
    context.output.show(&Learned(&history))
}
