//! `fleetune merge`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fleetune_engine::merge::merge;
use fleetune_engine::train::Observer;
use fleetune_proto::Client;
use fleetune_shared::{
    ArtifactKind, Input, InputRole, JobId, JobSpec, MergeOnto, MergeOrder, MergeSpec, TrainSummary,
    TrainerEvent, Work,
};
use serde_json::{Value, json};

use crate::Failure;
use crate::context::{Context, block_on_to_the_end};
use crate::fleet::{Following, Selector, follow, own_user, result_of, submit};
use crate::output::{JobCard, Output, Show, Style, plain, seconds};

/// Merges an adapter into its base and checks the merged model's logits against base + adapter.
///
/// Here: --base, --adapter and --out. In the fleet: --job; the merged model is stored as that job's result.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// The base: a model folder or a GGUF file
    #[arg(long, value_name = "PATH", required_unless_present = "job", requires_all = ["adapter", "out"])]
    base: Option<PathBuf>,
    /// The adapter's folder
    #[arg(long, value_name = "DIR", requires = "base")]
    adapter: Option<PathBuf>,
    /// The folder to put the merged model into
    #[arg(long, value_name = "DIR", requires = "base")]
    out: Option<PathBuf>,
    /// What numbers the adapter is added to, and how the sum is stored
    #[arg(long, value_name = "HOW", default_value = "as-stored", conflicts_with = "job")]
    onto: Onto,
    /// The code book, for dequantized-4bit
    #[arg(long, value_name = "TYPE", default_value = "nf4", conflicts_with = "job")]
    bnb_4bit_quant_type: CodeBook,
    /// Whether scales are quantised too, for dequantized-4bit
    #[arg(long, conflicts_with = "job")]
    bnb_4bit_use_double_quant: bool,
    /// Merge even if the adapter was trained on another base
    #[arg(long, conflicts_with = "job")]
    allow_other_base: bool,
    /// Merge the adapter of this job, as a job of the fleet: 7, last
    #[arg(long, value_name = "JOB", conflicts_with_all = ["base", "adapter", "out"])]
    job: Option<Selector>,
    /// Wait until the merge job has ended
    #[arg(long, conflicts_with = "base")]
    wait: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Onto {
    /// The base's own numbers and types
    AsStored,
    /// The base's own numbers, stored in 32 bits
    Float32,
    /// The base's own numbers, stored in bfloat16
    Bfloat16,
    /// The numbers QLoRA trained on: quantised to four bits and back
    #[value(name = "dequantized-4bit")]
    Dequantized4bit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CodeBook {
    Nf4,
    Fp4,
}

impl Merge {
    fn onto(&self) -> MergeOnto {
        match self.onto {
            Onto::AsStored => MergeOnto::AsStored,
            Onto::Float32 => MergeOnto::Float32,
            Onto::Bfloat16 => MergeOnto::Bfloat16,
            Onto::Dequantized4bit => MergeOnto::Dequantized4bit {
                fp4: self.bnb_4bit_quant_type == CodeBook::Fp4,
                double: self.bnb_4bit_use_double_quant,
            },
        }
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let onto = self.onto();
        match (self.base, self.adapter, self.out, self.job) {
            (Some(model), Some(adapter), Some(out), None) => here(
                context,
                MergeOrder { model, adapter, out, onto, other_base: self.allow_other_base },
            ),
            (.., Some(job)) => block_on_to_the_end(in_fleet(context, job, self.wait)),
            _ => Err(Failure::usage("give --base, --adapter and --out, or --job")),
        }
    }
}

fn here(context: &Context, order: MergeOrder) -> Result<(), Failure> {
    let summary = merge(&order, &mut Listener(&context.output))?;
    context.output.show(&Merged { out: &order.out, summary: &summary })
}

/// Passes on what the engine says.
pub(super) struct Listener<'a>(pub(super) &'a Output);

impl Observer for Listener<'_> {
    fn event(&mut self, event: TrainerEvent) {
        if let TrainerEvent::Log { message } = event {
            self.0.note(&plain(&message));
        }
    }
}

async fn in_fleet(context: &Context, job: Selector, wait: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let spec = merge_of(&client, job.resolve_one(&client).await?).await?;
    let submitted = submit(&client, &[spec]).await?;
    submitted.refusal(context.output.style_notes())?;
    if !wait {
        return context.output.show(&submitted);
    }
    let id = submitted.ids()[0];
    let (job, _) = follow(&client, id, Following::Progress, &context.output).await?;
    context.output.show(&JobCard::new(&job, &[]))?;
    super::submit::ended_well(&job)
}

/// The job that merges another one's adapter: it reads the same model, and that adapter.
pub(super) async fn merge_of(client: &Client, id: JobId) -> Result<JobSpec, Failure> {
    let (job, artifact) = result_of(client, id).await?;
    if artifact.kind != ArtifactKind::Adapter {
        let message = format!("job {id} made a whole model, there is nothing to merge");
        return Err(Failure::new("refused", message)
            .hint(format!("`fleetune adapters pull {id} --out DIR` fetches it")));
    }
    let adapter = artifact.files.into_iter().map(|file| Input { role: InputRole::Adapter, file });
    let model = job.inputs.into_iter().filter(|input| input.role == InputRole::Model);
    let work = Work::Merge(MergeSpec { adapter_of: Some(id) });
    Ok(JobSpec {
        name: format!("merge of {}", job.name).chars().take(100).collect(),
        priority: job.priority,
        user: own_user(),
        sweep: None,
        sweep_keys: BTreeMap::new(),
        estimates: JobSpec::estimates_of(&work, &job.model),
        work,
        inputs: model.chain(adapter).collect(),
        model: job.model,
    })
}

/// A merge that was done here.
struct Merged<'a> {
    out: &'a Path,
    summary: &'a TrainSummary,
}

impl Show for Merged<'_> {
    fn table(&self, _style: Style) -> String {
        let checked = self.summary.merge_logit_difference.map_or_else(String::new, |difference| {
            format!("; logits differ from base + adapter by at most {difference:.1e}")
        });
        format!(
            "merged into {} in {}, {} at its peak{checked}",
            self.out.display(),
            seconds(self.summary.seconds),
            self.summary.memory_bytes_peak
        )
    }

    fn json(&self) -> Value {
        json!({"path": self.out, "summary": self.summary})
    }

    fn quiet(&self) -> String {
        self.out.display().to_string()
    }
}
