//! What users ask.

use std::collections::HashSet;
use std::sync::Arc;

use fleetune_proto::v1::{self, fleet_server, submit_outcome::Outcome};
use fleetune_scheduler::state::{Command, Refusal, Reply, Submitted};
use fleetune_scheduler::{explain, view};
use fleetune_shared::{AgentName, JobId, JobSpec, RequestId, Work};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};

use super::{ANSWERS_WAITING_MAX, Stream, watch};
use crate::coordinator::Coordinator;
use crate::error::Error;

const SPECS_PER_SUBMIT_MAX: usize = 1000;
const INPUTS_PER_JOB_MAX: usize = 1000;
const REQUEST_ID_BYTES_MAX: usize = 128;
const WATCHERS_MAX: usize = 4096;

pub(super) struct Fleet {
    coordinator: Arc<Coordinator>,
    watchers: Arc<Semaphore>,
}

impl Fleet {
    pub(super) fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator, watchers: Arc::new(Semaphore::new(WATCHERS_MAX)) }
    }

    async fn take(&self, request: v1::SubmitRequest) -> Result<v1::SubmitReply, Error> {
        let v1::SubmitRequest { request_id, specs } = request;
        if request_id.is_empty() || request_id.len() > REQUEST_ID_BYTES_MAX {
            let found = request_id.len();
            return Err(Error::Invalid(format!(
                "a request id of {found} bytes, expected 1 to {REQUEST_ID_BYTES_MAX}"
            )));
        }
        if specs.is_empty() || specs.len() > SPECS_PER_SUBMIT_MAX {
            return Err(Error::TooMuch(format!(
                "{} jobs in one submit, expected 1 to {SPECS_PER_SUBMIT_MAX}",
                specs.len()
            )));
        }
        self.coordinator.require_disk_space()?;
        let specs = specs.into_iter().map(JobSpec::try_from).collect::<Result<Vec<_>, _>>()?;
        let specs = specs.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
        let coordinator = Arc::clone(&self.coordinator);
        let specs = spawn_blocking(move || {
            let files = specs.iter().flat_map(|spec| spec.inputs.iter().map(|input| &input.file));
            coordinator.require_blobs(files).map(|()| specs)
        })
        .await??;
        let now_ms = self.coordinator.clock.now_ms();
        let command = Command::Submit { request: RequestId(request_id), specs, now_ms };
        let Reply::Submitted(outcomes) = self.coordinator.propose(&command).await? else {
            return Err(Error::Defect("a submit was answered with something else".into()));
        };
        let outcomes = outcomes.into_iter().map(|outcome| v1::SubmitOutcome {
            outcome: Some(match outcome {
                Submitted::Accepted(id) => Outcome::Job(id.0),
                Submitted::Refused(why) => Outcome::Refused((*why).into()),
            }),
        });
        Ok(v1::SubmitReply { outcomes: outcomes.collect() })
    }

    /// What would become of a job.
    async fn plan_of(&self, request: v1::PlanRequest) -> Result<v1::Explanation, Error> {
        let spec = request.spec.ok_or_else(|| Error::Invalid("a plan without a job".into()))?;
        let spec = check(JobSpec::try_from(spec)?)?;
        self.coordinator.node.catch_up().await?;
        let coordinator = Arc::clone(&self.coordinator);
        let explained = spawn_blocking(move || {
            let (liveness, now_ms) = (coordinator.sessions.liveness(), coordinator.clock.now_ms());
            coordinator.state(|state| explain::plan(state, &liveness, spec, now_ms))
        });
        Ok(explained.await?.into())
    }

    /// The job now, after everything acknowledged before.
    async fn job(&self, id: JobId) -> Result<v1::Job, Error> {
        self.coordinator.node.catch_up().await?;
        let view = self.coordinator.job_view(id).ok_or(Refusal::UnknownJob(id))?;
        Ok(view.into())
    }

    async fn require_job(&self, id: JobId) -> Result<(), Error> {
        self.coordinator.node.catch_up().await?;
        let known = self.coordinator.state(|state| state.job(id).is_some());
        if known { Ok(()) } else { Err(Refusal::UnknownJob(id).into()) }
    }

    async fn end(&self, id: JobId) -> Result<v1::Job, Error> {
        let now_ms = self.coordinator.clock.now_ms();
        match self.coordinator.propose(&Command::Cancel { job: id, now_ms }).await {
            Ok(_) | Err(Error::Refused(Refusal::Ended { .. })) => self.job(id).await,
            Err(error) => Err(error),
        }
    }

    async fn why(&self, id: JobId) -> Result<v1::Explanation, Error> {
        self.coordinator.node.catch_up().await?;
        let liveness = self.coordinator.sessions.liveness();
        let explained = self
            .coordinator
            .state(|state| state.job(id).map(|job| explain::job(state, &liveness, job)));
        Ok(explained.ok_or(Refusal::UnknownJob(id))?.into())
    }

    async fn run_dry(&self, request: v1::DrainRequest) -> Result<v1::Agent, Error> {
        let draining = request.draining;
        self.change(request.agent, |agent| Command::Drain { agent, draining }).await
    }

    async fn hold(&self, request: v1::PauseRequest) -> Result<v1::Agent, Error> {
        let paused = request.paused;
        self.change(request.agent, |agent| Command::Pause { agent, paused }).await
    }

    /// Changes what an agent does, and says how it is then.
    async fn change(
        &self,
        agent: String,
        command: impl FnOnce(AgentName) -> Command,
    ) -> Result<v1::Agent, Error> {
        let name = AgentName::try_from(agent).map_err(|e| Error::Invalid(e.to_string()))?;
        self.coordinator.propose(&command(name.clone())).await?;
        let fleet = self.coordinator.fleet_view();
        let agent = fleet.agents.into_iter().find(|agent| agent.name == name);
        Ok(agent.ok_or(Refusal::UnknownAgent(name))?.into())
    }

    /// Runs a task that feeds a stream, while there is room for another.
    fn feed<T, F>(
        &self,
        task: impl FnOnce(Arc<Coordinator>, mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Result<Response<Stream<T>>, Status>
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let permit = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| Error::Busy)?;
        let (sender, receiver) = mpsc::channel(ANSWERS_WAITING_MAX);
        let task = task(Arc::clone(&self.coordinator), sender);
        tokio::spawn(async move {
            let _permit = permit;
            task.await;
        });
        Ok(Response::new(Stream::new(receiver)))
    }
}

/// What a user's machine checked is checked again, and sized again: nobody else's arithmetic decides who fits where.
fn check(spec: JobSpec) -> Result<JobSpec, Error> {
    check_inputs(&spec)?;
    let JobSpec { work, model, .. } = spec;
    let work = match work {
        Work::Train { recipe } => {
            let fitted = recipe.fit_model(&model);
            let recipe = fitted.map_err(|e| Error::Invalid(format!("job `{}`: {e}", spec.name)))?;
            Work::Train { recipe: Box::new(recipe) }
        }
        merge @ Work::Merge(_) => merge,
    };
    let estimates = JobSpec::estimates_of(&work, &model);
    Ok(JobSpec { work, model, estimates, ..spec })
}

/// Two files in one place would be one file.
fn check_inputs(spec: &JobSpec) -> Result<(), Error> {
    if spec.inputs.len() > INPUTS_PER_JOB_MAX {
        let found = spec.inputs.len();
        let message = format!("{found} input files, expected at most {INPUTS_PER_JOB_MAX}");
        return Err(Error::TooMuch(message));
    }
    let mut seen = HashSet::new();
    match spec.inputs.iter().find(|input| !seen.insert((input.role, &input.file.name))) {
        None => Ok(()),
        Some(twice) => Err(Error::Invalid(format!(
            "job `{}` has two input files named `{}`",
            spec.name, twice.file.name
        ))),
    }
}

fn id(request: Request<v1::JobRequest>) -> JobId {
    JobId(request.into_inner().job)
}

#[tonic::async_trait]
impl fleet_server::Fleet for Fleet {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitReply>, Status> {
        Ok(Response::new(self.take(request.into_inner()).await?))
    }

    async fn plan(
        &self,
        request: Request<v1::PlanRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        Ok(Response::new(self.plan_of(request.into_inner()).await?))
    }

    async fn overview(
        &self,
        _: Request<v1::OverviewRequest>,
    ) -> Result<Response<v1::Overview>, Status> {
        self.coordinator.node.catch_up().await.map_err(Error::from)?;
        let coordinator = Arc::clone(&self.coordinator);
        let view = spawn_blocking(move || coordinator.fleet_view()).await.map_err(Error::from)?;
        Ok(Response::new(view.into()))
    }

    async fn get_job(&self, request: Request<v1::JobRequest>) -> Result<Response<v1::Job>, Status> {
        Ok(Response::new(self.job(id(request)).await?))
    }

    async fn explain(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        Ok(Response::new(self.why(id(request)).await?))
    }

    type WatchStream = Stream<v1::WatchEvent>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let v1::WatchRequest { job, logs } = request.into_inner();
        self.require_job(JobId(job)).await?;
        self.feed(|coordinator, sender| watch::job(coordinator, JobId(job), logs, sender))
    }

    type MetricsStream = Stream<v1::StepMetrics>;

    async fn metrics(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<Self::MetricsStream>, Status> {
        let id = id(request);
        self.require_job(id).await?;
        self.feed(|coordinator, sender| watch::metrics(coordinator, id, sender))
    }

    type LogsStream = Stream<v1::LogLine>;

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let v1::LogsRequest { job, follow } = request.into_inner();
        self.require_job(JobId(job)).await?;
        self.feed(|coordinator, sender| watch::logs(coordinator, JobId(job), follow, sender))
    }

    async fn cancel(&self, request: Request<v1::JobRequest>) -> Result<Response<v1::Job>, Status> {
        Ok(Response::new(self.end(id(request)).await?))
    }

    async fn history(
        &self,
        _: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryReply>, Status> {
        self.coordinator.node.catch_up().await.map_err(Error::from)?;
        let coordinator = Arc::clone(&self.coordinator);
        let history = spawn_blocking(move || coordinator.state(view::history));
        Ok(Response::new(history.await.map_err(Error::from)?.into()))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        Ok(Response::new(self.run_dry(request.into_inner()).await?))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        Ok(Response::new(self.hold(request.into_inner()).await?))
    }
}
