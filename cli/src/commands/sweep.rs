//! `fleetune sweep`.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleetune_scheduler::sweep::{Trial, expand};
use fleetune_shared::view::{JobPhase, JobView};
use fleetune_shared::{Device, Recipe};
use serde_json::{Value, json};

use crate::Failure;
use crate::context::Context;
use crate::fleet::{follow_all, submit};
use crate::output::{JobList, Show, Style, SweepTable, Table, plain_line};
use crate::recipe::{Planned, RecipeOnDisk, upload};

/// Sends one job per combination (or draw) of a recipe's `sweep`, each sized on its own.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Sweep {
    #[command(subcommand)]
    show: Option<ShowSweep>,
    /// The recipe; its `sweep` says which keys take which values
    #[arg(required = true)]
    recipe: Option<PathBuf>,
    /// Wait until every job has ended, then show their results as one table
    #[arg(long)]
    wait: bool,
    /// Show the jobs and what each would need, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Whose share of the fleet the jobs count to; who runs this command where absent
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ShowSweep {
    /// Show a sweep's jobs, best loss first
    Show {
        /// The sweep's name
        name: String,
    },
}

impl Sweep {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match (&self.show, &self.recipe) {
            (Some(ShowSweep::Show { name }), _) => show(context, name).await,
            (None, Some(recipe)) => self.send(context, &RecipeOnDisk::read(recipe)?).await,
            (None, None) => Err(Failure::usage("a recipe is missing")),
        }
    }

    async fn send(&self, context: &Context, disk: &RecipeOnDisk) -> Result<(), Failure> {
        let output = &context.output;
        let planned = plan(disk)?;
        if self.dry_run {
            return output.show(&Plans(&planned));
        }
        let client = context.client()?;
        let fleet = client.overview().await?;
        let sweep = unused_name(disk.file.name.as_deref().unwrap_or("sweep"), &fleet.jobs);
        let mut sent = HashMap::new();
        let mut specs = Vec::with_capacity(planned.len());
        for (trial, planned) in &planned {
            let inputs = upload(&client, &planned.inputs()?, &mut sent, output).await?;
            let mut spec = planned.job(inputs)?;
            spec.user = self.user.clone().unwrap_or(spec.user);
            spec.sweep = Some(sweep.clone());
            spec.sweep_keys = trial.keys.clone();
            specs.push(spec);
        }
        let submitted = submit(&client, &specs).await?;
        let ids = submitted.ids();
        if !self.wait || ids.is_empty() {
            let fleet = client.overview().await?;
            let jobs: Vec<JobView> =
                fleet.jobs.into_iter().filter(|job| ids.contains(&job.id)).collect();
            output.show(&JobList::new(&jobs))?;
            output.note(&format!("`fleetune sweep show {sweep}` compares their results"));
            return submitted.refusal(output.style_notes());
        }
        let tell = |job: &JobView| {
            let keys: Vec<String> =
                job.sweep_keys.iter().map(|(k, v)| plain_line(&format!("{k}={v}"))).collect();
            let agent = job.agent.as_ref().map_or_else(String::new, |a| format!(" on {a}"));
            let (id, phase) = (job.id, job.phase.as_str());
            output.note(&format!("job {id} ({}) {phase}{agent}", keys.join(" ")));
        };
        let jobs = follow_all(&client, &ids, output, tell).await?;
        let failed = jobs.iter().filter(|job| job.phase != JobPhase::Succeeded).count();
        let total = jobs.len();
        output.show(&SweepTable::new(jobs))?;
        submitted.refusal(output.style_notes())?;
        if failed > 0 {
            return Err(Failure::new(
                "job_failed",
                format!("{failed} of {total} jobs did not succeed"),
            ));
        }
        Ok(())
    }
}

/// Every trial of a recipe's sweep, sized on its own.
pub(super) fn plan(disk: &RecipeOnDisk) -> Result<Vec<(Trial, Planned)>, Failure> {
    let trials = expand(&disk.file).map_err(|error| Failure::new("recipe", error.to_string()))?;
    let plan = |trial: Trial| {
        let recipe: Recipe = trial.recipe.clone();
        Ok((trial, Planned::new(disk, recipe)?))
    };
    trials.into_iter().map(plan).collect()
}

async fn show(context: &Context, name: &str) -> Result<(), Failure> {
    let fleet = context.client()?.overview().await?;
    let (jobs, others): (Vec<JobView>, Vec<JobView>) =
        fleet.jobs.into_iter().partition(|job| job.sweep.as_deref() == Some(name));
    if jobs.is_empty() {
        let mut names: Vec<String> = others.into_iter().filter_map(|job| job.sweep).collect();
        names.dedup();
        let failure = Failure::new("not_found", format!("no sweep is named `{name}`"));
        return Err(match names.as_slice() {
            [] => failure.hint("`fleetune sweep RECIPE` starts one"),
            names => failure.hint(format!("there are: {}", names.join(", "))),
        });
    }
    context.output.show(&SweepTable::new(jobs))
}

/// The recipe's name, numbered where an earlier sweep has it already.
fn unused_name(name: &str, jobs: &[JobView]) -> String {
    let taken = |name: &str| jobs.iter().any(|job| job.sweep.as_deref() == Some(name));
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.to_owned())
        .chain(numbered)
        .find(|name| !taken(name))
        .unwrap_or_else(|| name.to_owned())
}

/// What would be sent.
struct Plans<'a>(&'a [(Trial, Planned)]);

impl Show for Plans<'_> {
    fn table(&self, style: Style) -> String {
        let mut table = Table::new(style, &["name", ">memory", "sets"]);
        for (trial, planned) in self.0 {
            let keys: Vec<String> = trial.keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            table.row([
                plain_line(&planned.recipe.name).into(),
                planned.estimate(Device::Cuda).total().to_string().into(),
                plain_line(&keys.join(" ")).into(),
            ]);
        }
        format!("{}\n\n{} jobs; nothing was sent", table.text("no jobs"), self.0.len())
    }

    fn json(&self) -> Value {
        let one = |(trial, planned): &(Trial, Planned)| {
            let estimate = planned.estimate(Device::Cuda);
            json!({
                "name": planned.recipe.name,
                "sweep_keys": trial.keys,
                "estimate": estimate,
                "vram_bytes_needed": estimate.total(),
            })
        };
        self.0.iter().map(one).collect()
    }

    fn quiet(&self) -> String {
        let names = self.0.iter().map(|(_, planned)| planned.recipe.name.clone());
        names.collect::<Vec<_>>().join("\n")
    }
}
