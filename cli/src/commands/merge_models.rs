//! `fleetune merge-models`.

use std::path::{Path, PathBuf};

use clap::Args;
use fleetune_engine::merge::{ModelMergeOrder, ModelMergeSummary, merge_models};
use fleetune_shared::ModelMerge;
use serde_json::{Value, json};

use super::merge::Listener;
use crate::Failure;
use crate::context::Context;
use crate::output::{Show, Style, seconds};

/// Merges whole models as a merge file says: linear, slerp, task_arithmetic, ties, dare_linear or dare_ties.
///
/// The file is mergekit's YAML with `models`. Tensors are merged one after the other, so that no model needs to fit in
/// memory; only the comparison of logits at the end loads a model at a time.
#[derive(Debug, Args)]
pub(crate) struct MergeModels {
    /// The merge file; its paths are relative to it
    #[arg(value_name = "CONFIG.yaml")]
    config: PathBuf,
    /// The folder to put the merged model into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of the draws; for dare
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Do not load models to compare their logits
    #[arg(long)]
    no_compare: bool,
}

impl MergeModels {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let text = std::fs::read_to_string(&self.config)
            .map_err(|error| Failure::io(&self.config, &error))?;
        let mut merge = ModelMerge::read(&text).map_err(|error| {
            Failure::new("input", format!("{}: {error}", self.config.display()))
        })?;
        let folder = self.config.parent().unwrap_or(Path::new(""));
        for path in merge.models.iter_mut().map(|model| &mut model.path).chain(&mut merge.base) {
            *path = folder.join(&*path).display().to_string();
        }
        let order =
            ModelMergeOrder { merge, seed: self.seed, out: self.out, compare: !self.no_compare };
        let summary = merge_models(&order, &mut Listener(&context.output))?;
        context.output.show(&Merged { order: &order, summary: &summary })
    }
}

/// A merge that was done here.
struct Merged<'a> {
    order: &'a ModelMergeOrder,
    summary: &'a ModelMergeSummary,
}

impl Show for Merged<'_> {
    fn table(&self, _style: Style) -> String {
        let it = self.summary;
        let mut lines = vec![format!(
            "merged {} tensors by {} into {} in {}, {} at its peak",
            it.tensors,
            self.order.merge.method.name(),
            self.order.out.display(),
            seconds(it.seconds),
            it.memory_bytes_peak
        )];
        for moved in &it.logit_differences {
            lines.push(format!(
                "  logits differ from {} by at most {:.2e}",
                moved.model, moved.difference
            ));
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        json!({"path": self.order.out, "summary": self.summary})
    }

    fn quiet(&self) -> String {
        self.order.out.display().to_string()
    }
}
