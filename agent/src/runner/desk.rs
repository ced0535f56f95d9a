//! An attempt's way to the coordinator: reports, metrics and log lines through the session, blobs directly.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleetune_proto::client::{Client, ClientError, ErrorCode};
use fleetune_proto::v1::report::What;
use fleetune_shared::{ArtifactFile, FileName, StepMetrics};
use tokio::sync::{mpsc, oneshot};

use super::lines::now_ms;
use crate::attempt::AttemptId;

/// What an attempt has to say to the coordinator.
#[derive(Debug)]
pub(crate) enum Upward {
    /// Changes the fleet's state; kept until it is acknowledged.
    Report { id: AttemptId, what: Box<What>, acked: oneshot::Sender<()> },
    /// One step.
    Metrics { id: AttemptId, metrics: StepMetrics },
    /// One line.
    Log { id: AttemptId, at_ms: u64, text: String },
}

/// Files that will not reach the coordinator, and why.
#[derive(Debug)]
pub(super) struct Undelivered(pub(super) String);

/// An attempt's way to the coordinator.
pub(super) struct Desk {
    pub(super) id: AttemptId,
    pub(super) client: Client,
    pub(super) upward: mpsc::Sender<Upward>,
}

/// Between tries, while the coordinator is away.
const PAUSE: Duration = Duration::from_millis(500);

/// So often an upload that the coordinator refused is tried again.
const REFUSALS_MAX: u32 = 4;

impl Desk {
    pub(super) fn new(id: AttemptId, client: Client, upward: mpsc::Sender<Upward>) -> Arc<Self> {
        Arc::new(Self { id, client, upward })
    }

    /// Reports, and waits for the acknowledgement. A refusal never comes here: it ends the attempt.
    pub(super) async fn report(&self, what: What) {
        let (acked, ack) = oneshot::channel();
        let report = Upward::Report { id: self.id, what: Box::new(what), acked };
        if self.upward.send(report).await.is_err() || ack.await.is_err() {
            // Fenced, or the agent ends: whoever dropped the other side ends this attempt too.
            std::future::pending::<()>().await;
        }
    }

    /// Reports without waiting.
    pub(super) async fn tell(&self, what: What) {
        let (acked, _) = oneshot::channel();
        self.send(Upward::Report { id: self.id, what: Box::new(what), acked }).await;
    }

    pub(super) async fn metrics(&self, metrics: StepMetrics) {
        self.send(Upward::Metrics { id: self.id, metrics }).await;
    }

    pub(super) async fn log(&self, text: String) {
        self.send(Upward::Log { id: self.id, at_ms: now_ms(), text }).await;
    }

    async fn send(&self, message: Upward) {
        // Nobody listens only when the agent ends.
        let _ = self.upward.send(message).await;
    }

    /// Uploads files of a folder, however long the coordinator is away.
    pub(super) async fn upload(
        &self,
        folder: &Path,
        names: Vec<FileName>,
    ) -> Result<Vec<ArtifactFile>, Undelivered> {
        let paths: Vec<_> = names.iter().map(|name| folder.join(name.as_str())).collect();
        let (mut uploaded, mut refusals) = (Vec::with_capacity(paths.len()), 0);
        while let rest @ [_, ..] = &paths[uploaded.len()..] {
            match self.client.upload_next(rest).await {
                Ok(some) => {
                    uploaded.extend(some);
                    refusals = 0;
                }
                Err(error) if self.again_after(&error).await => {}
                // A blob that was damaged on its way, say.
                Err(error) if error.code != ErrorCode::Io && refusals < REFUSALS_MAX => {
                    refusals += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    let name = &names[uploaded.len()];
                    return Err(Undelivered(format!("uploading {name}: {error}")));
                }
            }
        }
        let named = names.into_iter().zip(uploaded);
        Ok(named.map(|(name, (blob, bytes))| ArtifactFile { name, blob, bytes }).collect())
    }

    /// Waits a moment if the coordinator is away, and says whether to try again.
    pub(super) async fn again_after(&self, error: &ClientError) -> bool {
        let away = matches!(error.code, ErrorCode::Unavailable | ErrorCode::Exhausted);
        if away {
            tokio::time::sleep(PAUSE).await;
        }
        away
    }
}
