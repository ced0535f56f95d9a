//! `fleetune jobs`.

use clap::{Args, ValueEnum};
use fleetune_shared::view::JobPhase;

use crate::Failure;
use crate::context::Context;
use crate::output::JobList;

/// Lists jobs: those that wait or run, and the ten that ended last.
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// List every job
    #[arg(long)]
    all: bool,
    /// Only jobs in this phase; may be given more than once
    #[arg(long, value_name = "PHASE")]
    phase: Vec<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Phase {
    Queued,
    Assigned,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl From<Phase> for JobPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Queued => Self::Queued,
            Phase::Assigned => Self::Assigned,
            Phase::Running => Self::Running,
            Phase::Succeeded => Self::Succeeded,
            Phase::Failed => Self::Failed,
            Phase::Cancelled => Self::Cancelled,
        }
    }
}

const ENDED_MAX: usize = 10;

impl Jobs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut jobs = context.client()?.overview().await?.jobs;
        let phases: Vec<JobPhase> = self.phase.iter().map(|p| (*p).into()).collect();
        let mut hidden = 0;
        if !phases.is_empty() {
            jobs.retain(|job| phases.contains(&job.phase));
        } else if !self.all {
            let ended = jobs.iter().filter(|j| j.phase.is_final()).count();
            hidden = ended.saturating_sub(ENDED_MAX);
            let mut left = hidden;
            jobs.retain(|job| {
                let hide = job.phase.is_final() && left > 0;
                left -= usize::from(hide);
                !hide
            });
        }
        context.output.show(&JobList::new(&jobs))?;
        if hidden > 0 {
            context.output.note(&format!("{hidden} older jobs have ended; `--all` lists them"));
        }
        Ok(())
    }
}
