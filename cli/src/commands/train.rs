//! `fleetune train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use fleetune_agent::{Ending, train_alone};
use fleetune_shared::{TrainOrder, TrainSummary, TrainerEvent};
use serde_json::{Value, json};

use super::device::DeviceArg;
use crate::Failure;
use crate::context::{Context, block_on_to_the_end};
use crate::fleet::{evaluated, told};
use crate::output::{Output, Progress, Show, Style, plain, seconds};
use crate::recipe::{Planned, RecipeOnDisk};

/// Trains a recipe on this machine, without a fleet. Ctrl-C writes a checkpoint first.
#[derive(Debug, Args)]
pub(crate) struct Train {
    /// The recipe; its paths are relative to it
    recipe: PathBuf,
    /// Where the result, metrics, report and checkpoints go
    #[arg(long, value_name = "DIR", required_unless_present = "preview")]
    out: Option<PathBuf>,
    /// Continue from a checkpoint's folder, or from the `latest` in --out, if there is one
    #[arg(long, value_name = "latest|DIR")]
    resume: Option<String>,
    /// What computes
    #[arg(long, default_value = "auto")]
    device: DeviceArg,
    /// Show the first N rows as the model would see them, what is learned marked, and train nothing
    #[arg(long, value_name = "N")]
    preview: Option<usize>,
}

impl Train {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let disk = RecipeOnDisk::read(&self.recipe)?;
        let planned = Planned::new(&disk, disk.recipe()?)?;
        if let Some(rows) = self.preview {
            return super::preview::preview(&planned, rows, context);
        }
        let Some(out) = self.out else { return Err(Failure::usage("--out is missing")) };
        let mut order = planned.order(out.clone(), self.device.here())?;
        order.resume_from = self.resume.map(|from| match from.as_str() {
            "latest" => out.clone(),
            _ => PathBuf::from(from),
        });
        let mut watcher = Watcher::new(&context.output, &order.recipe.name);
        let summary = watcher.follow(order)?;
        watcher.progress.clear();
        context.output.show(&Trained { out: &out, summary: &summary })
    }
}

/// Shows how a run goes, and stops it on Ctrl-C.
struct Watcher {
    progress: Progress,
    output: Output,
    total: u64,
}

impl Watcher {
    fn new(output: &Output, name: &str) -> Self {
        Self { progress: Progress::steps(output, name), output: *output, total: 0 }
    }

    /// Has a child process do it: what it reads may be anybody's, and what happens to it should not happen here.
    fn follow(&mut self, order: TrainOrder) -> Result<TrainSummary, Failure> {
        let start = |error: std::io::Error| Failure::new("io", format!("the trainer: {error}"));
        let program = std::env::current_exe().map_err(start)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        let stop = async move {
            if tokio::signal::ctrl_c().await.is_err() {
                return std::future::pending().await;
            }
            flag.store(true, Ordering::Relaxed);
        };
        let ending = block_on_to_the_end(async {
            let mut hear = |event| {
                self.event(event);
                if interrupted.swap(false, Ordering::Relaxed) {
                    self.progress.note("stopping after a checkpoint; Ctrl-C again ends at once");
                }
            };
            let training = train_alone(&program, order, stop, &mut hear);
            tokio::select! {
                ending = training => ending.map_err(start),
                () = twice_interrupted() => Err(Failure::Interrupted(None)),
            }
        })?;
        match ending {
            Ending::Finished(summary) => Ok(*summary),
            Ending::Stopped => Err(Failure::Interrupted(Some(
                "stopped after a checkpoint; --resume latest goes on".into(),
            ))),
            Ending::Failed { kind, message } => Err(Failure::of_trainer(kind, message)),
        }
    }

    fn event(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Log { message } => self.progress.note(&plain(&message)),
            TrainerEvent::Started { step, steps_total } => {
                self.total = steps_total;
                self.progress.at(step, steps_total, "");
            }
            TrainerEvent::Step(metrics) => {
                if let Some(text) = evaluated(&metrics) {
                    self.progress.note(&format!("step {}: {text}", metrics.step));
                }
                self.progress.at(metrics.step, self.total, &told(&metrics));
            }
            TrainerEvent::Checkpoint { step, folder } => {
                if self.output.is_watched() {
                    self.progress.note(&format!("checkpoint of step {step} in {folder}"));
                }
            }
            TrainerEvent::Peak { .. }
            | TrainerEvent::Finished { .. }
            | TrainerEvent::Failed { .. } => {}
        }
    }
}

/// Ready with the second Ctrl-C.
async fn twice_interrupted() {
    for _ in 0..2 {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A run that was done here.
struct Trained<'a> {
    out: &'a Path,
    summary: &'a TrainSummary,
}

impl Show for Trained<'_> {
    fn table(&self, _style: Style) -> String {
        let s = self.summary;
        let held_out = match (s.eval_loss_last, &s.best) {
            (Some(last), Some(best)) => format!(
                ", held-out {last:.4} (best {} {:.4} after step {})",
                best.metric, best.value, best.step
            ),
            _ => String::new(),
        };
        format!(
            "{} steps in {}, loss {:.4} → {:.4}{held_out}, {:.0} tokens/s, {} at its peak\n{}",
            s.steps,
            seconds(s.seconds),
            s.loss_first,
            s.loss_last,
            s.tokens_per_second,
            s.memory_bytes_peak,
            self.out.display()
        )
    }

    fn json(&self) -> Value {
        json!({"path": self.out, "summary": self.summary})
    }

    fn quiet(&self) -> String {
        self.out.display().to_string()
    }
}
