//! `fleetune adapters combine`.

use std::path::PathBuf;

use clap::Args;
use fleetune_engine::merge::{
    Combination, CombineMethod, CombineOrder, CombineSummary, MajoritySign, combine_adapters,
};
use serde_json::{Value, json};

use crate::Failure;
use crate::context::Context;
use crate::output::{Show, Style, seconds};

#[derive(Debug, Args)]
pub(crate) struct Combine {
    /// Adapters of one base, each a folder with adapter_config.json
    #[arg(value_name = "DIR", num_args = 2.., required = true)]
    adapters: Vec<PathBuf>,
    /// One weight for each, negative ones take an effect away; equal shares of 1 unless given
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', allow_hyphen_values = true)]
    weights: Vec<f64>,
    /// How: linear, cat, svd, ties, ties_svd, dare_linear, dare_linear_svd, dare_ties, dare_ties_svd, magnitude_prune,
    /// magnitude_prune_svd
    #[arg(long, default_value = "svd", value_parser = method)]
    method: CombineMethod,
    /// Share of the numbers that stay, above 0 and at most 1; for ties, dare and magnitude_prune
    #[arg(long)]
    density: Option<f64>,
    /// What elects a sign: total or frequency; for ties
    #[arg(long, default_value = "total", value_parser = majority_sign)]
    majority_sign_method: MajoritySign,
    /// Rank of the result; for methods that end in svd, the largest rank unless given
    #[arg(long, value_name = "R")]
    svd_rank: Option<usize>,
    /// Seed of the draws; for dare
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Combine even adapters that were trained on different bases
    #[arg(long)]
    allow_other_base: bool,
    /// The folder to put the combined adapter into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn method(name: &str) -> Result<CombineMethod, String> {
    CombineMethod::named(name).ok_or_else(|| {
        format!("expected one of {}", CombineMethod::names().collect::<Vec<_>>().join(", "))
    })
}

fn majority_sign(name: &str) -> Result<MajoritySign, String> {
    let known = [MajoritySign::Total, MajoritySign::Frequency];
    let found = known.into_iter().find(|sign| sign.name() == name);
    found.ok_or_else(|| "expected total or frequency".to_owned())
}

impl Combine {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let count = self.adapters.len();
        let weights =
            if self.weights.is_empty() { vec![1.0 / count as f64; count] } else { self.weights };
        let order = CombineOrder {
            adapters: self.adapters,
            combination: Combination {
                method: self.method,
                weights,
                density: self.density,
                majority_sign: self.majority_sign_method,
                svd_rank: self.svd_rank,
                seed: self.seed,
            },
            other_base: self.allow_other_base,
            out: self.out,
        };
        let summary = combine_adapters(&order)?;
        context.output.show(&Combined { order: &order, summary: &summary })
    }
}

/// A combination that was done here.
struct Combined<'a> {
    order: &'a CombineOrder,
    summary: &'a CombineSummary,
}

impl Show for Combined<'_> {
    fn table(&self, _style: Style) -> String {
        let (order, it) = (self.order, self.summary);
        format!(
            "combined {} adapters by {} into {}: rank {}, {} modules, in {}; differs from the weighted sum of their \
             changes by {:.1e} of its length",
            order.adapters.len(),
            order.combination.method.name(),
            order.out.display(),
            it.r,
            it.modules,
            seconds(it.seconds),
            it.relative_change
        )
    }

    fn json(&self) -> Value {
        json!({"path": self.order.out, "summary": self.summary})
    }

    fn quiet(&self) -> String {
        self.order.out.display().to_string()
    }
}
