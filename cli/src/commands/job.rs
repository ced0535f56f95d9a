//! `fleetune job …`.

use clap::{Args, Subcommand};
use fleetune_shared::view::JobView;
use serde_json::json;

use crate::Failure;
use crate::context::Context;
use crate::fleet::Selector;
use crate::output::{Explained, JobCard, JobList, iso, plain};

/// What to do with jobs. They are named by number (7), range (3-5) or as `last`.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Show a job whole
    Show(Many),
    /// Print a job's log
    Logs(Logs),
    /// End jobs; one that has ended stays as it is
    Cancel(Many),
    /// Say why a job waits, card by card
    Explain(One),
}

#[derive(Debug, Args)]
pub(crate) struct Many {
    /// Jobs: 7, 3-5, last
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Selector>,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// A job: 7, last
    #[arg(value_name = "JOB")]
    job: Selector,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// A job: 7, last
    #[arg(value_name = "JOB")]
    job: Selector,
    /// Go on until the job has ended
    #[arg(long, short)]
    follow: bool,
}

impl Job {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        match self {
            Self::Show(many) => {
                for selector in many.jobs {
                    for id in selector.resolve(&client).await? {
                        let job = client.job(id).await?;
                        let metrics = client.metrics(id).await.unwrap_or_default();
                        let losses: Vec<f64> = metrics.iter().map(|m| m.loss).collect();
                        context.output.show(&JobCard::new(&job, &losses))?;
                    }
                }
                Ok(())
            }
            Self::Logs(logs) => {
                let id = logs.job.resolve_one(&client).await?;
                let mut lines = client.logs(id, logs.follow);
                while let Some(line) = lines.next().await? {
                    let json = json!({
                        "job": id, "attempt": line.attempt, "at": iso(line.at_ms),
                        "text": line.text,
                    });
                    context.output.event(&plain(line.text.trim_end()), &json)?;
                }
                Ok(())
            }
            Self::Cancel(many) => {
                let mut cancelled: Vec<JobView> = Vec::new();
                for selector in many.jobs {
                    for id in selector.resolve(&client).await? {
                        cancelled.push(client.cancel(id).await?);
                    }
                }
                context.output.show(&JobList::new(&cancelled))
            }
            Self::Explain(one) => {
                let id = one.job.resolve_one(&client).await?;
                let (job, why) = (client.job(id).await?, client.explain(id).await?);
                let placed_on = job.agent.as_ref().filter(|_| !job.phase.is_final());
                context.output.show(&Explained::new(&why, placed_on))
            }
        }
    }
}
