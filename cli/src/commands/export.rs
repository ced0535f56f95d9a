//! `fleetune export`.

use std::path::PathBuf;

use clap::Args;
use fleetune_engine::export::{ExportSummary, NumberType, export_adapter, export_model};
use serde_json::{Value, json};

use crate::Failure;
use crate::context::Context;
use crate::output::{Show, Style};

/// Writes a model, or a LoRA adapter, as a GGUF file for llama.cpp.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A model folder or GGUF file, or an adapter's folder
    #[arg(value_name = "PATH")]
    what: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    gguf: PathBuf,
    /// How matrices are stored: f32, f16, bf16, q8_0, q4_0 or q4_1
    #[arg(long = "type", value_name = "TYPE", default_value = "f16", value_parser = number_type)]
    kind: NumberType,
    /// The model an adapter was made for
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
}

fn number_type(name: &str) -> Result<NumberType, String> {
    let names = NumberType::ALL.map(NumberType::name).join(", ");
    NumberType::named(name).ok_or_else(|| format!("expected one of {names}"))
}

impl Export {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let is_adapter = self.what.join("adapter_config.json").exists();
        let summary = match (is_adapter, self.base) {
            (true, Some(base)) => export_adapter(&self.what, &base, &self.gguf, self.kind)?,
            (true, None) => {
                let why = "an adapter's GGUF file names its base's architecture: give --base";
                return Err(Failure::usage(why));
            }
            (false, Some(_)) => {
                let why = format!(
                    "{}: has no adapter_config.json, so --base means nothing",
                    self.what.display()
                );
                return Err(Failure::usage(&why));
            }
            (false, None) => export_model(&self.what, &self.gguf, self.kind)?,
        };
        context.output.show(&Exported(&summary))
    }
}

/// A file that was written.
struct Exported<'a>(&'a ExportSummary);

impl Show for Exported<'_> {
    fn table(&self, _style: Style) -> String {
        let it = self.0;
        format!(
            "{}: {} of architecture {}, {} tensors, {}",
            it.path.display(),
            it.kind,
            it.architecture,
            it.tensors,
            it.bytes
        )
    }

    fn json(&self) -> Value {
        json!(self.0)
    }

    fn quiet(&self) -> String {
        self.0.path.display().to_string()
    }
}
