//! Carries checkpoints to the coordinator while training goes on.
//!
//! Only the newest counts: one that was overtaken before it left is dropped. One that was acknowledged is dropped
//! too, the coordinator has it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use fleetune_proto::v1::report::What;
use fleetune_shared::{Artifact, ArtifactKind};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::workspace::{Depth, files_of};
use super::{Desk, Undelivered, blocking};

/// A checkpoint set aside for upload.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    pub(super) step: u64,
    pub(super) folder: PathBuf,
}

/// One attempt's courier. Dropping it ends the upload in progress.
pub(super) struct Courier {
    newest: watch::Sender<Option<Aside>>,
    /// The step of the last checkpoint that left this machine, or never will.
    settled: watch::Receiver<Option<u64>>,
    _task: AbortOnDropHandle<()>,
}

impl Courier {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        let (newest, inbox) = watch::channel(None);
        let (done, settled) = watch::channel(None);
        let task = AbortOnDropHandle::new(tokio::spawn(carry(desk, inbox, done)));
        Self { newest, settled, _task: task }
    }

    /// Hands over a checkpoint; one that still waits is dropped for it.
    pub(super) fn hand_over(&self, checkpoint: Aside) {
        self.newest.send_replace(Some(checkpoint));
    }

    /// Waits until the newest checkpoint has been acknowledged.
    pub(super) async fn settle(&mut self) {
        let newest = self.newest.borrow().as_ref().map(|checkpoint| checkpoint.step);
        // An error means that the courier has ended, and with it all hope.
        let _ = self.settled.wait_for(|step| *step >= newest).await;
    }
}

async fn carry(
    desk: Arc<Desk>,
    mut inbox: watch::Receiver<Option<Aside>>,
    done: watch::Sender<Option<u64>>,
) {
    while inbox.changed().await.is_ok() {
        let Some(checkpoint) = inbox.borrow_and_update().clone() else { continue };
        tokio::select! {
            () = deliver(&desk, &checkpoint) => { done.send_replace(Some(checkpoint.step)); }
            // Left to the next turn of the loop.
            () = overtaken(inbox.clone()) => {}
        }
        let folder = checkpoint.folder.clone();
        if let Err(error) = blocking(move || fs::remove_dir_all(folder)).await {
            warn!("{}: {error}", checkpoint.folder.display());
        }
    }
}

async fn overtaken(mut inbox: watch::Receiver<Option<Aside>>) {
    if inbox.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn deliver(desk: &Desk, checkpoint: &Aside) {
    let uploaded = match files_of(&checkpoint.folder, Depth::All) {
        Ok(names) => desk.upload(&checkpoint.folder, names).await,
        Err(error) => Err(Undelivered(format!("{}: {error}", checkpoint.folder.display()))),
    };
    match uploaded {
        Ok(files) => {
            let kind = ArtifactKind::Checkpoint;
            let artifact = Artifact { kind, step: checkpoint.step, files };
            desk.report(What::Checkpoint(artifact.into())).await;
        }
        // The next one may do better, and training needs none of them unless something else fails.
        Err(Undelivered(why)) => desk.log(format!("checkpoint {}: {why}", checkpoint.step)).await,
    }
}
