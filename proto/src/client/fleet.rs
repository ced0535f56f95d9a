//! Jobs and agents.

use fleetune_shared::view::{AgentView, Explanation, FleetView, HistoryView, JobView};
use fleetune_shared::{AgentName, JobId, JobSpec, RequestId, StepMetrics};
use tonic::Status;

use super::patience::Patience;
use super::{Client, ClientError, ErrorCode, Logs, Watch};
use crate::v1;

/// What became of one submitted job.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It exists.
    Accepted(JobId),
    /// It fits no card, and this is why.
    Refused(Box<Explanation>),
}

impl Client {
    /// Submits jobs; one outcome for each, in their order. Repeating it with the same id returns the first answer.
    ///
    /// # Errors
    /// Any [`ClientError`]; a refusal for want of memory is an [`Outcome`].
    pub async fn submit(
        &self,
        request: &RequestId,
        specs: &[JobSpec],
    ) -> Result<Vec<Outcome>, ClientError> {
        let message = v1::SubmitRequest {
            request_id: request.0.clone(),
            specs: specs.iter().cloned().map(Into::into).collect(),
        };
        let reply = self.ask(|| async { self.fleet().submit(message.clone()).await }).await?;
        if reply.outcomes.len() != specs.len() {
            let (sent, got) = (specs.len(), reply.outcomes.len());
            return Err(ClientError::new(
                ErrorCode::Internal,
                format!("{sent} jobs were submitted and {got} answered"),
            ));
        }
        reply.outcomes.into_iter().map(outcome).collect()
    }

    /// What would become of a job if it were submitted now; nothing changes.
    ///
    /// # Errors
    /// Any [`ClientError`]; a refusal is an explanation like any other.
    pub async fn plan(&self, spec: &JobSpec) -> Result<Explanation, ClientError> {
        let message = v1::PlanRequest { spec: Some(spec.clone().into()) };
        let reply = self.ask(|| async { self.fleet().plan(message.clone()).await }).await?;
        Ok(reply.try_into()?)
    }

    /// Every agent and every job.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn overview(&self) -> Result<FleetView, ClientError> {
        let reply =
            self.ask(|| async { self.fleet().overview(v1::OverviewRequest {}).await }).await?;
        Ok(reply.try_into()?)
    }

    /// One job.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and any other [`ClientError`].
    pub async fn job(&self, id: JobId) -> Result<JobView, ClientError> {
        let reply = self.ask(|| async { self.fleet().get_job(request(id)).await }).await?;
        Ok(reply.try_into()?)
    }

    /// Why a job waits, card by card.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and any other [`ClientError`].
    pub async fn explain(&self, id: JobId) -> Result<Explanation, ClientError> {
        let reply = self.ask(|| async { self.fleet().explain(request(id)).await }).await?;
        Ok(reply.try_into()?)
    }

    /// A job's life from now on; survives a restart of the coordinator.
    #[must_use]
    pub fn watch(&self, id: JobId, logs: bool) -> Watch {
        Watch::new(self.clone(), id, logs)
    }

    /// Metrics so far, oldest first.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and any other [`ClientError`].
    pub async fn metrics(&self, id: JobId) -> Result<Vec<StepMetrics>, ClientError> {
        let mut patience = Patience::new();
        loop {
            match self.metrics_once(id).await {
                Ok(metrics) => return metrics,
                Err(status) => patience.another(self, &status).await?,
            }
        }
    }

    async fn metrics_once(
        &self,
        id: JobId,
    ) -> Result<Result<Vec<StepMetrics>, ClientError>, Status> {
        let mut stream = self.fleet().metrics(request(id)).await?.into_inner();
        let mut metrics = Vec::new();
        while let Some(step) = stream.message().await? {
            match step.try_into() {
                Ok(step) => metrics.push(step),
                Err(error) => return Ok(Err(crate::ConvertError::into(error))),
            }
        }
        Ok(Ok(metrics))
    }

    /// Log lines so far and, where asked, as they come.
    #[must_use]
    pub fn logs(&self, id: JobId, follow: bool) -> Logs {
        Logs::new(self.clone(), id, follow)
    }

    /// Ends a job; ending one that has ended changes nothing.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and any other [`ClientError`].
    pub async fn cancel(&self, id: JobId) -> Result<JobView, ClientError> {
        let reply = self.ask(|| async { self.fleet().cancel(request(id)).await }).await?;
        Ok(reply.try_into()?)
    }

    /// What was learned of estimates from attempts that ended.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn history(&self) -> Result<HistoryView, ClientError> {
        let reply =
            self.ask(|| async { self.fleet().history(v1::HistoryRequest {}).await }).await?;
        Ok(reply.try_into()?)
    }

    /// Lets an agent finish what it has and gives it nothing new, or takes that back.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and any other [`ClientError`].
    pub async fn drain(&self, agent: &AgentName, draining: bool) -> Result<AgentView, ClientError> {
        let message = v1::DrainRequest { agent: agent.as_str().to_owned(), draining };
        let reply = self.ask(|| async { self.fleet().drain(message.clone()).await }).await?;
        Ok(reply.try_into()?)
    }

    /// Has an agent's jobs leave at once and gives it none, or takes that back.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and any other [`ClientError`].
    pub async fn pause(&self, agent: &AgentName, paused: bool) -> Result<AgentView, ClientError> {
        let message = v1::PauseRequest { agent: agent.as_str().to_owned(), paused };
        let reply = self.ask(|| async { self.fleet().pause(message.clone()).await }).await?;
        Ok(reply.try_into()?)
    }
}

fn request(id: JobId) -> v1::JobRequest {
    v1::JobRequest { job: id.0 }
}

fn outcome(outcome: v1::SubmitOutcome) -> Result<Outcome, ClientError> {
    match outcome.outcome {
        Some(v1::submit_outcome::Outcome::Job(id)) => Ok(Outcome::Accepted(JobId(id))),
        Some(v1::submit_outcome::Outcome::Refused(why)) => {
            Ok(Outcome::Refused(Box::new(why.try_into()?)))
        }
        None => Err(ClientError::new(ErrorCode::Internal, "an outcome says nothing")),
    }
}
