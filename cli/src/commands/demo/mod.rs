//! `fleetune demo`: the main job, from a recipe to an answer, on embedded assets.
//!
//! ```text
//!   assets ─▶ house (coordinator, two agents) ─▶ sweep ─▶ placement ─▶ training ─▶ merge ─▶ before / after
//! ```

mod assets;
mod house;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use fleetune_engine::generate::Answerer;
use fleetune_proto::client::WatchEvent;
use fleetune_shared::view::{Explanation, JobPhase, JobView};
use fleetune_shared::{ByteSize, JobId};
use serde_json::json;

use super::generate::greedy;
use super::{merge, sweep};
use crate::Failure;
use crate::context::{Context, block_on_to_the_end};
use crate::fleet::{
    Crowd, Following, asked_to_stop, follow, listen_to_log, pull, result_of, submit, told,
};
use crate::output::{
    AdapterList, AgentList, Answer, Answers, Bars, Colour, Explained, Field, Mode, Output, Show,
    Style, SweepTable, Table, loss, plain, seconds,
};
use crate::recipe::{RecipeOnDisk, upload};
use house::House;

/// Shows the whole house at work, on this machine alone: a coordinator and two agents with declared cards take a
/// three-job sweep on a tiny model, one adapter is merged, and the same prompts are answered before and after.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Keep the demo's folder and say where it is
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        listen_to_log("error");
        let folder = tempfile::Builder::new()
            .prefix("fleetune-demo-")
            .tempdir()
            .map_err(|error| Failure::new("io", format!("a temporary folder: {error}")))?;
        // Dropping the folder removes it, however this ends.
        let path = folder.path().to_owned();
        let result = block_on_to_the_end(Box::pin(live(context.output, path)));
        if self.keep {
            let kept = folder.keep();
            context.output.note(&format!("kept {}", kept.display()));
        }
        result
    }
}

/// The demo until its end or Ctrl-C; whatever was started is stopped before it returns.
async fn live(output: Output, folder: PathBuf) -> Result<(), Failure> {
    let stop = tokio::spawn(async {
        tokio::select! {
            () = asked_to_stop() => {}
            () = terminal_closed() => {}
        }
    });
    let house = House::start(&folder).await?;
    let told = tokio::select! {
        told = Box::pin(tell(&output, &house, &folder)) => told,
        _ = stop => Err(Failure::Interrupted(Some("the demo was stopped and cleaned up".into()))),
    };
    told.and(house.stop().await)
}

/// Unlike a service, which may outlive its terminal, the demo has nobody left to tell.
async fn terminal_closed() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => _ = hangup.recv().await,
        Err(_) => std::future::pending().await,
    }
}

/// Prints the story where people read it.
struct Narrator<'a>(&'a Output);

impl Narrator<'_> {
    /// Of what is set in by two.
    fn style(&self) -> Style {
        self.0.style().narrower(2)
    }

    fn heading(&self, text: &str) -> Result<(), Failure> {
        let text = self.0.style().paint(Colour::Strong, text);
        self.say(&format!("\n{text}"))
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        match self.0.mode {
            Mode::Table => self.0.line(text),
            Mode::Json | Mode::Quiet => Ok(()),
        }
    }

    fn show(&self, what: &impl Show) -> Result<(), Failure> {
        let table = what.table(self.style());
        self.say(&indented(&table))
    }
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

async fn tell(output: &Output, house: &House, folder: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    let narrator = Narrator(output);
    let client = &house.client;
    assets::unpack(folder)?;

    narrator.say("A coordinator and two agents run in this process. Their cards are declared:")?;
    narrator.say("the CPU stands in, and every trainer is held to its card's size.")?;
    narrator.heading("1  The fleet")?;
    narrator.show(&AgentList::new(&house.agents().await?))?;

    narrator.heading("2  A sweep of three jobs, each sized on its own")?;
    let disk = RecipeOnDisk::read(&folder.join("recipe.yaml"))?;
    let planned = sweep::plan(&disk)?;
    let mut sent = HashMap::new();
    let mut specs = Vec::new();
    for (trial, planned) in &planned {
        let inputs = upload(client, &planned.inputs()?, &mut sent, output).await?;
        let mut spec = planned.job(inputs)?;
        spec.sweep = Some("demo".into());
        spec.sweep_keys = trial.keys.clone();
        specs.push(spec);
    }
    let submitted = submit(client, &specs).await?;
    submitted.refusal(output.style_notes())?;
    let ids = submitted.ids();
    let (jobs, explanations) = placed(house, &ids).await?;
    narrator.show(&Placement { jobs: &jobs, explanations: &explanations })?;
    let largest = jobs.iter().max_by_key(|job| job.estimate.total());
    if let Some(job) = largest {
        narrator.say(&format!("\n  What the largest job, {}, needs and finds:", job.id))?;
        let explained = Explained::new(&explanations[&job.id], job.agent.as_ref());
        narrator.say(&indented(&explained.numbers(narrator.style())))?;
    }

    narrator.heading("3  Training")?;
    let jobs = train(output, house, &ids).await?;
    if let Some(job) = jobs.iter().find(|job| job.phase != JobPhase::Succeeded) {
        super::submit::ended_well(job)?;
    }
    let results = SweepTable::new(jobs.clone());
    narrator.say("")?;
    narrator.show(&results)?;

    narrator.heading("4  Adapters, stored by the coordinator under the hashes of their bytes")?;
    narrator.show(&AdapterList(&jobs))?;

    let best = best(&jobs)?;
    narrator.heading(&format!("5  The best one, of job {best}, merged into its base"))?;
    let merged = submit(client, &[merge::merge_of(client, best).await?]).await?;
    merged.refusal(output.style_notes())?;
    let (merge_job, _) =
        follow(client, merged.ids()[0], Following::Progress, &output.silent()).await?;
    super::submit::ended_well(&merge_job)?;
    let difference = merge_job.summary.as_ref().and_then(|s| s.merge_logit_difference);
    let (_, artifact) = result_of(client, merge_job.id).await?;
    let after = folder.join("merged");
    pull(client, &artifact, &after, output).await?;
    let checked = difference.map_or_else(String::new, |difference| {
        format!("; its logits differ from base + adapter by at most {difference:.1e}")
    });
    narrator.say(&format!("  {} in {} files{checked}", artifact.bytes(), artifact.files.len()))?;

    narrator.heading("6  The same prompts, answered by the base and by the merged model")?;
    let answers = answers(folder.join("model"), after).await?;
    narrator.show(&answers)?;
    let took = begun.elapsed().as_secs_f64();
    narrator.say(&format!("\nAll of it took {}.", seconds(took)))?;
    narrator.say("Next: `fleetune up` here, then `fleetune submit RECIPE` in another terminal.")?;
    match output.mode {
        Mode::Table => Ok(()),
        Mode::Json => output.line(
            &serde_json::to_string_pretty(&json!({
                "sweep": results.json(),
                "merge": {"job": merge_job.id, "logit_difference": difference},
                "answers": answers.json(),
                "seconds": took,
            }))
            .unwrap_or_default(),
        ),
        Mode::Quiet => output.line(&answers.quiet()),
    }
}

fn best(jobs: &[JobView]) -> Result<JobId, Failure> {
    jobs.iter()
        .filter(|job| job.artifact.is_some())
        .min_by(|a, b| {
            let key = |job: &JobView| loss(job).unwrap_or(f64::INFINITY);
            key(a).total_cmp(&key(b))
        })
        .map(|job| job.id)
        .ok_or_else(|| Failure::new("internal", "no job of the demo left an adapter"))
}

/// Waits until every job has a card or a reason to wait.
async fn placed(
    house: &House,
    ids: &[JobId],
) -> Result<(Vec<JobView>, BTreeMap<JobId, Explanation>), Failure> {
    let client = &house.client;
    for _ in 0..100 {
        let fleet = client.overview().await?;
        let ours = |job: &&JobView| ids.contains(&job.id);
        if fleet.jobs.iter().filter(ours).filter(|j| j.agent.is_some()).count() == ids.len() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let fleet = client.overview().await?;
    let jobs: Vec<JobView> = fleet.jobs.into_iter().filter(|j| ids.contains(&j.id)).collect();
    let mut explanations = BTreeMap::new();
    for job in &jobs {
        let mut explanation = client.explain(job.id).await?;
        explanation.cards.sort_by_key(|card| card.card.vram_bytes_total);
        explanations.insert(job.id, explanation);
    }
    Ok((jobs, explanations))
}

/// Where each job went, card by card.
struct Placement<'a> {
    jobs: &'a [JobView],
    explanations: &'a BTreeMap<JobId, Explanation>,
}

impl Show for Placement<'_> {
    fn table(&self, style: Style) -> String {
        let cards = self.explanations.values().next().map(|e| &e.cards[..]).unwrap_or_default();
        let mut columns = vec!["job".to_owned(), "sets".into(), ">needs".into()];
        columns.extend(cards.iter().map(|card| format!("{} holds", card.agent)));
        columns.push("placed on".into());
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut table = Table::new(style, &columns);
        for job in self.jobs {
            let keys: Vec<String> = job.sweep_keys.values().cloned().collect();
            let names: Vec<&str> = job.sweep_keys.keys().map(|key| short(key)).collect();
            let sets: Vec<String> =
                names.iter().zip(&keys).map(|(k, v)| format!("{k}={v}")).collect();
            let mut row = vec![
                job.id.to_string().into(),
                plain(&sets.join(" ")).into(),
                job.estimate.total().to_string().into(),
            ];
            for card in cards {
                let usable = card.card.vram_bytes_total.0 - card.vram_bytes_margin.0;
                let (word, colour) = match job.estimate.total().0 <= usable {
                    true => ("fits", Colour::Good),
                    false => ("too small", Colour::Bad),
                };
                row.push(Field::new(format!("{}, {word}", ByteSize(usable)), colour));
            }
            row.push(match (&job.agent, &job.waiting) {
                (Some(agent), _) => agent.to_string().into(),
                (None, Some(why)) => plain(why).into(),
                (None, None) => "–".into(),
            });
            table.row_of(row);
        }
        table.text("")
    }

    fn json(&self) -> serde_json::Value {
        json!(self.explanations)
    }

    fn quiet(&self) -> String {
        String::new()
    }
}

/// A long key as people call it.
fn short(key: &str) -> &str {
    match key {
        "per_device_train_batch_size" => "batch",
        "learning_rate" => "rate",
        other => other,
    }
}

/// Shows every job's progress until all have ended.
async fn train(output: &Output, house: &House, ids: &[JobId]) -> Result<Vec<JobView>, Failure> {
    let mut crowd = Crowd::watch(&house.client, ids);
    let mut bars = Bars::new(output);
    let mut jobs: BTreeMap<JobId, JobView> = BTreeMap::new();
    while let Some((id, event)) = crowd.next().await? {
        match event {
            WatchEvent::Job(job) => {
                let again = jobs.get(&id).is_some_and(|before| before.attempt < job.attempt);
                if again && let Some(failure) = &job.failure {
                    bars.note(&format!("  job {id}: {}", plain(&failure.message)));
                }
                jobs.insert(id, *job);
            }
            WatchEvent::Metrics(metrics) => {
                let Some(job) = jobs.get_mut(&id) else { continue };
                let agent = job.agent.as_ref().map_or("–", |agent| agent.as_str());
                let name = format!("job {id} on {agent}");
                let total = job.steps_total.unwrap_or(metrics.step);
                bars.at(id.0, &name, metrics.step, total, &told(&metrics));
                job.latest = Some(metrics);
            }
            WatchEvent::Log(_) => {}
        }
    }
    bars.leave();
    Ok(jobs.into_values().collect())
}

/// Of an answer.
const TOKENS_MAX: usize = 40;

/// Both models' answers, greedy, so that only the training differs.
async fn answers(before: PathBuf, after: PathBuf) -> Result<Answers, Failure> {
    let asking = tokio::task::spawn_blocking(move || {
        let (before, after) = (Answerer::load(&before, None)?, Answerer::load(&after, None)?);
        let answer = |prompt: &&str| {
            Ok(Answer {
                prompt: (*prompt).to_owned(),
                before: greedy(&before, prompt, TOKENS_MAX)?,
                after: greedy(&after, prompt, TOKENS_MAX)?,
            })
        };
        assets::PROMPTS.iter().map(answer).collect::<Result<Vec<_>, Failure>>()
    });
    let answers = asking.await.map_err(|error| Failure::new("internal", error.to_string()))?;
    Ok(Answers(answers?))
}
