//! A coordinator in this process, and what a user sends it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fleetune_coordinator::{ServeError, Settings, serve};
use fleetune_proto::client::Outcome;
use fleetune_proto::{Client, ClientError};
use fleetune_shared::{
    Artifact, ArtifactFile, ArtifactKind, ByteSize, FileName, Input, InputRole, JobId, JobSpec,
    ModelSpec, Recipe, RequestId, Work,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running coordinator; its folder outlives it.
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    settings: Settings,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        // Longer than any test: agents that only pretend do not beat.
        Self::start_with_lease(Duration::from_secs(60)).await
    }

    pub(crate) async fn start_with_lease(lease: Duration) -> Self {
        let folder = TempDir::new().unwrap();
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            heartbeat: Duration::from_millis(50),
            lease,
            snapshot_entries: 20,
            ..Settings::new(folder.path())
        };
        Self::start_in(folder, settings).await
    }

    async fn start_in(folder: TempDir, mut settings: Settings) -> Self {
        let (ready, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(
            settings.clone(),
            move |address| ready.send(address).unwrap(),
            async {
                let _ = stopped.await;
            },
        ));
        let Ok(address) = address.await else {
            panic!("no start: {}", task.await.unwrap().unwrap_err())
        };
        settings.listen = address;
        Self { folder, address, settings, stop, task }
    }

    pub(crate) async fn stop(self) -> (TempDir, Settings) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
        (self.folder, self.settings)
    }

    /// Stops and starts again, at the same address.
    pub(crate) async fn restart(self) -> Self {
        let (folder, settings) = self.stop().await;
        Self::start_in(folder, settings).await
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.address.to_string()).unwrap()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.clone()
    }
}

pub(crate) async fn upload(client: &Client, folder: &Path, name: &str, text: &str) -> ArtifactFile {
    let path = folder.join("upload").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    let (blob, bytes) = client.upload_file(&path, |_, _| {}).await.unwrap();
    ArtifactFile { name: FileName::try_from(name.to_owned()).unwrap(), blob, bytes }
}

pub(crate) async fn artifact(
    client: &Client,
    folder: &Path,
    kind: ArtifactKind,
    step: u64,
) -> Artifact {
    let file = upload(client, folder, "weights.bin", &format!("{kind:?} after step {step}")).await;
    Artifact { kind, step, files: vec![file] }
}

/// A job that reads one uploaded row.
pub(crate) async fn spec(client: &Client, folder: &Path, name: &str) -> JobSpec {
    let data = upload(client, folder, "rows.jsonl", r#"{"prompt":"a","completion":"b"}"#).await;
    let recipe = "model_name_or_path: base\ndataset_name: rows.jsonl\nr: 4\nmax_steps: 30\n\
                  max_length: 64\nper_device_train_batch_size: 1";
    let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,
        "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":512,
        "max_position_embeddings":512,"rms_norm_eps":1e-5}"#;
    JobSpec {
        name: name.into(),
        priority: 0,
        user: String::new(),
        sweep: None,
        sweep_keys: BTreeMap::new(),
        work: Work::Train { recipe: Box::new(Recipe::read(recipe).unwrap()) },
        inputs: vec![Input { role: InputRole::Data, file: data }],
        model: ModelSpec::from_hf_config(config).unwrap(),
        estimates: BTreeMap::new(),
    }
}

pub(crate) async fn submit(
    client: &Client,
    request: &str,
    spec: JobSpec,
) -> Result<JobId, ClientError> {
    let outcomes = client.submit(&RequestId(request.into()), &[spec]).await?;
    match &outcomes[..] {
        [Outcome::Accepted(id)] => Ok(*id),
        other => panic!("{other:?}"),
    }
}

pub(crate) const GIB: ByteSize = ByteSize(1 << 30);
