//! `fleetune schema`.

use clap::Args;
use serde_json::Value;

use crate::Failure;
use crate::context::Context;

/// Prints the JSON Schema of recipes, for editors and checkers.
#[derive(Debug, Args)]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let schema: Value = fleetune_shared::recipe::schema();
        context.output.line(&serde_json::to_string_pretty(&schema).unwrap_or_default())
    }
}
