//! `fleetune submit`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fleetune_proto::ErrorCode;
use fleetune_shared::view::{Explanation, JobPhase, JobView};
use fleetune_shared::{ByteSize, Device, Estimate, Fit, JobSpec};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::Failure;
use crate::context::Context;
use crate::fleet::{Following, follow, submit};
use crate::output::{
    Colour, Explained, JobCard, Mode, Show, Sizing, Style, Table, plain, plain_line,
};
use crate::recipe::{InputFile, Planned, RecipeOnDisk, upload};

/// Sends a recipe to the fleet: its model and data are uploaded where the coordinator lacks them.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The recipe, YAML or JSON; its paths are relative to it
    recipe: PathBuf,
    /// Wait until the job has ended; exit with an error unless it succeeded
    #[arg(long)]
    wait: bool,
    /// Wait, and print every step and log line
    #[arg(long)]
    follow: bool,
    /// Show what would be sent, what it would need and what the fleet would do with it now, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Another name than the recipe's
    #[arg(long)]
    name: Option<String>,
    /// Another priority than the recipe's; higher goes first
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Whose share of the fleet the job counts to; who runs this command where absent
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only on a card whose name has this in it, such as "RTX 4000"
    #[arg(long, value_name = "NAME")]
    card: Option<String>,
    /// Only on an agent that carries this label; may be given several times
    #[arg(long = "label", value_name = "WORD")]
    labels: Vec<String>,
}

impl Submit {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let output = &context.output;
        let mut disk = RecipeOnDisk::read(&self.recipe)?;
        disk.file.name = self.name.or(disk.file.name);
        disk.file.priority = self.priority.or(disk.file.priority);
        disk.file.card = self.card.or(disk.file.card);
        if !self.labels.is_empty() {
            disk.file.labels = Some(self.labels);
        }
        let had_sweep = disk.file.sweep.is_some();
        let planned = Planned::new(&disk, disk.recipe()?)?;
        let files = planned.inputs()?;
        if self.dry_run {
            let mut spec = planned.job(Vec::new())?;
            spec.user = self.user.unwrap_or(spec.user);
            let fleet = asked(context, &spec).await?;
            return output.show(&Plan { planned: &planned, files: &files, fleet });
        }
        if had_sweep {
            output
                .note("the recipe's `sweep` is left out; `fleetune sweep` sends every combination");
        }
        let client = context.client()?;
        let inputs = upload(&client, &files, &mut HashMap::new(), output).await?;
        let mut spec = planned.job(inputs)?;
        spec.user = self.user.unwrap_or(spec.user);
        let submitted = submit(&client, &[spec]).await?;
        submitted.refusal(output.style_notes())?;
        let id = submitted.ids()[0];
        if !self.wait && !self.follow {
            return output.show(&submitted);
        }
        let how = if self.follow { Following::Everything } else { Following::Progress };
        let (job, losses) = follow(&client, id, how, output).await?;
        match (output.mode, self.follow) {
            (Mode::Json, true) => {
                let job = JobCard::new(&job, &losses).json();
                output.event("", &json!({"event": "job", "job": job}))?;
            }
            _ => output.show(&JobCard::new(&job, &losses))?,
        }
        ended_well(&job)
    }
}

/// An error unless the job succeeded.
pub(super) fn ended_well(job: &JobView) -> Result<(), Failure> {
    let id = job.id;
    match job.phase {
        JobPhase::Succeeded => Ok(()),
        JobPhase::Cancelled => Err(Failure::new("cancelled", format!("job {id} was cancelled"))),
        _ => {
            let why = job.failure.as_ref().map_or("it did not succeed", |f| f.message.as_str());
            Err(Failure::new("job_failed", format!("job {id} failed: {}", plain(why)))
                .hint(format!("`fleetune job logs {id}` prints its log")))
        }
    }
}

/// How long a plan waits for a coordinator, without which it says less.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the fleet would say to the job now; `None` where no coordinator answers.
async fn asked(context: &Context, spec: &JobSpec) -> Result<Option<Explanation>, Failure> {
    let client = context.client()?;
    match timeout(PATIENCE, client.plan(spec)).await {
        Ok(Ok(explanation)) => Ok(Some(explanation)),
        Ok(Err(error)) if error.code != ErrorCode::Unavailable => Err(error.into()),
        _ => {
            context.output.note(&format!(
                "no coordinator answers at {}, so the fleet's own cards and queue are not looked at",
                context.coordinator
            ));
            Ok(None)
        }
    }
}

/// What would be sent, and what would become of it.
struct Plan<'a> {
    planned: &'a Planned,
    files: &'a [InputFile],
    fleet: Option<Explanation>,
}

impl Plan<'_> {
    fn bytes(&self) -> ByteSize {
        ByteSize(self.files.iter().map(|file| file.bytes.0).sum())
    }

    fn estimate(&self) -> Estimate {
        self.planned.estimate(Device::Cuda)
    }

    fn useful(&self) -> ByteSize {
        self.planned.useful(Device::Cuda)
    }
}

impl Show for Plan<'_> {
    fn table(&self, style: Style) -> String {
        let mut files = Table::new(style, &["role", "file", ">size"]);
        for file in self.files {
            let role = format!("{:?}", file.role).to_lowercase();
            files.row([
                role.into(),
                file.path.display().to_string().into(),
                file.bytes.to_string().into(),
            ]);
        }
        let recipe = &self.planned.recipe;
        let sizing = match &self.fleet {
            Some(fleet) => format!(
                "{}: {}",
                style.paint(Colour::Strong, &plain_line(&recipe.name)),
                Explained::new(fleet, None).table(style)
            ),
            None => {
                let sizer = self.planned.sizer(Device::Cuda);
                let need = sizer.size(recipe);
                let cards = super::estimate::known_cards().into_iter();
                let sizing = Sizing {
                    name: recipe.name.clone(),
                    about: super::estimate::about(&sizer, recipe),
                    need,
                    useful: self.useful(),
                    fits: cards.map(|card| Fit::of(&sizer, recipe, &need, card)).collect(),
                };
                sizing.table(style)
            }
        };
        let (count, bytes) = (self.files.len(), self.bytes());
        let files = files.text("no files");
        format!("{sizing}\n\n{files}\n\n{count} files, {bytes}; nothing was sent")
    }

    fn json(&self) -> Value {
        let file =
            |file: &InputFile| json!({"role": file.role, "path": file.path, "bytes": file.bytes});
        json!({
            "name": self.planned.recipe.name,
            "recipe": self.planned.recipe,
            "estimate": self.estimate(),
            "vram_bytes_needed": self.estimate().total(),
            "vram_bytes_useful": self.useful(),
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
            "fleet": self.fleet.as_ref().map(|fleet| Explained::new(fleet, None).json()),
        })
    }

    fn quiet(&self) -> String {
        self.files.iter().map(|f| f.path.display().to_string()).collect::<Vec<_>>().join("\n")
    }
}
