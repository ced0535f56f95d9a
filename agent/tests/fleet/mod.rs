//! A coordinator that does what a test tells it, and an agent that joins it.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleetune_agent::{AgentError, CardSettings, DeviceChoice, Settings};
use fleetune_proto::blob::OutlineHasher;
use fleetune_proto::v1::agent_message::Message as Up;
use fleetune_proto::v1::coordinator_message::Message as Down;
use fleetune_proto::v1::report::What;
use fleetune_proto::v1::{self, agents_server, blobs_server};
use fleetune_shared::{
    Artifact, ArtifactFile, BlobHash, ByteSize, FileName, Input, InputRole, JobSpec, ModelSpec,
    Recipe, Work,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(20);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
struct Shared {
    blobs: HashMap<Vec<u8>, Vec<u8>>,
    /// The agent's session, once it is welcome.
    session: Option<mpsc::Sender<Result<v1::CoordinatorMessage, Status>>>,
    /// Reports are acknowledged as they come, unless a test does it.
    holds_acks: bool,
    refuses: Option<Status>,
    vram_bytes_limit: Option<u64>,
    /// Whom jobs are sent to for what they read.
    sources: Vec<v1::Source>,
    /// Bytes handed out, by blob.
    given: HashMap<Vec<u8>, u64>,
    /// Attempts whose reports are refused.
    fenced: Vec<(u64, u32)>,
}

#[derive(Clone)]
struct Service {
    shared: Arc<Mutex<Shared>>,
    heard: mpsc::UnboundedSender<Up>,
}

/// The coordinator.
pub(crate) struct Fleet {
    shared: Arc<Mutex<Shared>>,
    heard: mpsc::UnboundedReceiver<Up>,
    service: Service,
    address: SocketAddr,
    /// Its own runtime, so that a stop cuts every connection as a kill would.
    server: Option<Runtime>,
}

impl Fleet {
    pub(crate) fn start() -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let (sender, heard) = mpsc::unbounded_channel();
        let service = Service { shared: Arc::clone(&shared), heard: sender };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut fleet = Self { shared, heard, service, address, server: None };
        fleet.up();
        fleet
    }

    pub(crate) fn up(&mut self) {
        let runtime = Runtime::new().unwrap();
        // The one before may still be letting go of the port.
        let mut tries = (0..100).filter_map(|_| {
            let bound = std::net::TcpListener::bind(self.address).ok();
            if bound.is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            bound
        });
        let std_listener = tries.next().unwrap();
        std_listener.set_nonblocking(true).unwrap();
        self.address = std_listener.local_addr().unwrap();
        let service = self.service.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(std_listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(agents_server::AgentsServer::new(service.clone()))
                .add_service(blobs_server::BlobsServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        self.server = Some(runtime);
    }

    /// As kill -9 would; blobs and what a test set stay, as they would on disk.
    pub(crate) fn down(&mut self) {
        self.shared.lock().unwrap().session = None;
        self.server.take().unwrap().shutdown_background();
    }

    pub(crate) fn refuse(&self, status: Status) {
        self.shared.lock().unwrap().refuses = Some(status);
    }

    pub(crate) fn hold_acks(&self, hold: bool) {
        self.shared.lock().unwrap().holds_acks = hold;
    }

    pub(crate) fn fence(&self, job: u64, attempt: u32) {
        self.shared.lock().unwrap().fenced.push((job, attempt));
    }

    pub(crate) fn store(&self, bytes: &[u8]) -> BlobHash {
        let hash = blake3::hash(bytes);
        self.shared.lock().unwrap().blobs.insert(hash.as_bytes().to_vec(), bytes.to_vec());
        BlobHash(*hash.as_bytes())
    }

    pub(crate) fn corrupt(&self, blob: BlobHash) {
        self.shared.lock().unwrap().blobs.get_mut(&blob.0[..]).unwrap()[0] ^= 1;
    }

    /// A file of an artifact as text, by its name.
    pub(crate) fn read(&self, artifact: &v1::Artifact, name: &str) -> String {
        String::from_utf8(self.bytes(artifact, name)).unwrap()
    }

    pub(crate) fn bytes(&self, artifact: &v1::Artifact, name: &str) -> Vec<u8> {
        let file = artifact.files.iter().find(|file| file.name == name).unwrap();
        self.shared.lock().unwrap().blobs[&file.blob].clone()
    }

    /// What trainers are held to from now on.
    pub(crate) fn limit(&self, bytes: u64) {
        self.shared.lock().unwrap().vram_bytes_limit = Some(bytes);
    }

    /// Jobs are told that this agent has these blobs, from now on.
    pub(crate) fn recommend(&self, address: &str, blobs: &[BlobHash]) {
        let blobs = blobs.iter().map(|blob| blob.0.to_vec()).collect();
        let source = v1::Source { agent: "bench-2".into(), address: address.into(), blobs };
        self.shared.lock().unwrap().sources = vec![source];
    }

    /// How much of a blob was fetched here.
    pub(crate) fn given(&self, blob: BlobHash) -> u64 {
        self.shared.lock().unwrap().given.get(&blob.0[..]).copied().unwrap_or(0)
    }

    pub(crate) fn send(&self, message: Down) {
        let session = self.shared.lock().unwrap().session.clone().expect("an agent is here");
        session.try_send(Ok(v1::CoordinatorMessage { message: Some(message) })).unwrap();
    }

    pub(crate) fn start_job(
        &self,
        job: u64,
        attempt: u32,
        spec: JobSpec,
        checkpoint: Option<v1::Artifact>,
    ) {
        let (vram_bytes_limit, sources) = {
            let shared = self.shared.lock().unwrap();
            (shared.vram_bytes_limit.unwrap_or(1 << 30), shared.sources.clone())
        };
        self.send(Down::Start(v1::Start {
            job,
            attempt,
            spec: Some(spec.into()),
            checkpoint,
            vram_bytes_limit,
            vram_bytes_budget: None,
            sources,
        }));
    }

    pub(crate) fn stop_job(&self, job: u64, attempt: u32, reason: v1::StopReason) {
        self.send(Down::Stop(v1::Stop { job, attempt, reason: reason.into(), for_owner: false }));
    }

    pub(crate) fn ack(&self, sequence: u64) {
        self.send(Down::Ack(v1::Ack { sequence, accepted: true, reason: String::new() }));
    }

    /// The next message that `pick` wants; others are passed over.
    pub(crate) async fn next<T>(&mut self, what: &str, mut pick: impl FnMut(Up) -> Option<T>) -> T {
        let search = async {
            loop {
                let message = self.heard.recv().await.unwrap();
                if let Some(found) = pick(message) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no {what}"))
    }

    pub(crate) async fn hello(&mut self) -> v1::Hello {
        let pick = |message| if let Up::Hello(hello) = message { Some(hello) } else { None };
        self.next("hello", pick).await
    }

    /// The next report other than `Started`.
    pub(crate) async fn report(&mut self) -> (u64, What) {
        self.next("report", |message| match message {
            Up::Report(v1::Report { what: Some(What::Started(_)), .. }) => None,
            Up::Report(report) => Some((report.sequence, report.what.unwrap())),
            _ => None,
        })
        .await
    }

    /// Everything heard within `time` that is a report, or speaks of one attempt.
    pub(crate) async fn reports_within(&mut self, time: Duration) -> Vec<What> {
        let mut reports = Vec::new();
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(Some(message)) = tokio::time::timeout_at(deadline, self.heard.recv()).await {
            if let Up::Report(report) = message {
                reports.push(report.what.unwrap());
            }
        }
        reports
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl agents_server::Agents for Service {
    type SessionStream = Answers<v1::CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let hello = inbound.message().await?.and_then(|message| message.message);
        assert!(matches!(hello, Some(Up::Hello(_))), "{hello:?}");
        if let Some(status) = self.shared.lock().unwrap().refuses.clone() {
            return Err(status);
        }
        let (sender, outbound) = mpsc::channel(64);
        let welcome = Down::Welcome(v1::Welcome { heartbeat_ms: 100, lease_ms: 1000 });
        let _ = sender.send(Ok(v1::CoordinatorMessage { message: Some(welcome) })).await;
        self.shared.lock().unwrap().session = Some(sender.clone());
        let _ = self.heard.send(hello.unwrap());
        let service = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let Some(message) = message.message else { continue };
                if let Up::Report(report) = &message {
                    let ack = {
                        let shared = service.shared.lock().unwrap();
                        let fenced = shared.fenced.contains(&(report.job, report.attempt));
                        let reason = if fenced { "another attempt is live" } else { "" };
                        (fenced || !shared.holds_acks).then(|| v1::Ack {
                            sequence: report.sequence,
                            accepted: !fenced,
                            reason: reason.into(),
                        })
                    };
                    if let Some(ack) = ack {
                        let message = Some(Down::Ack(ack));
                        let _ = sender.send(Ok(v1::CoordinatorMessage { message })).await;
                    }
                }
                let _ = service.heard.send(message);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }
}

#[tonic::async_trait]
impl blobs_server::Blobs for Service {
    type GetStream = Answers<v1::Chunk>;

    async fn stat(
        &self,
        request: Request<v1::StatRequest>,
    ) -> Result<Response<v1::StatReply>, Status> {
        let shared = self.shared.lock().unwrap();
        let stat = |hash: &Vec<u8>| v1::BlobStat {
            complete: shared.blobs.contains_key(hash),
            bytes_present: 0,
        };
        let stats = request.into_inner().hashes.iter().map(stat).collect();
        Ok(Response::new(v1::StatReply { stats }))
    }

    async fn put(
        &self,
        request: Request<Streaming<v1::PutPart>>,
    ) -> Result<Response<v1::PutReply>, Status> {
        let mut parts = request.into_inner();
        let mut bytes = Vec::new();
        let mut hash = Vec::new();
        while let Some(part) = parts.next().await {
            match part?.part {
                Some(v1::put_part::Part::Header(header)) => hash = header.hash,
                Some(v1::put_part::Part::Chunk(chunk)) => bytes.extend(chunk),
                None => {}
            }
        }
        assert_eq!(blake3::hash(&bytes).as_bytes()[..], hash[..]);
        self.shared.lock().unwrap().blobs.insert(hash, bytes);
        Ok(Response::new(v1::PutReply {}))
    }

    async fn put_small(
        &self,
        request: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::PutReply>, Status> {
        for v1::SmallBlob { hash, bytes } in request.into_inner().blobs {
            assert_eq!(blake3::hash(&bytes).as_bytes()[..], hash[..]);
            self.shared.lock().unwrap().blobs.insert(hash, bytes);
        }
        Ok(Response::new(v1::PutReply {}))
    }

    async fn outline(
        &self,
        request: Request<v1::OutlineRequest>,
    ) -> Result<Response<v1::OutlineReply>, Status> {
        let mut hasher = OutlineHasher::default();
        let shared = self.shared.lock().unwrap();
        let blob = shared.blobs.get(&request.get_ref().hash);
        hasher.update(blob.ok_or_else(|| Status::not_found("no such blob"))?);
        Ok(Response::new(v1::OutlineReply { values: hasher.finish().to_bytes() }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let v1::GetRequest { hash, offset, length } = request.into_inner();
        let mut shared = self.shared.lock().unwrap();
        let blob = shared.blobs.get(&hash).cloned();
        let blob = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        *shared.given.entry(hash).or_default() += length;
        let part = &blob[offset as usize..(offset + length) as usize];
        let chunks = part.chunks(1 << 20).map(|chunk| Ok(v1::Chunk { bytes: chunk.to_vec() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks.collect::<Vec<_>>()))))
    }
}

/// An agent under test.
pub(crate) struct Agent {
    pub(crate) data_dir: PathBuf,
    running: tokio::task::JoinHandle<Result<(), AgentError>>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Agent {
    /// An agent with a declared card whose trainer is a shell script.
    pub(crate) fn join(fleet: &Fleet, folder: &Path, trainer: &str) -> Self {
        Self::join_with(fleet, folder, trainer, |_| {})
    }

    pub(crate) fn join_with(
        fleet: &Fleet,
        folder: &Path,
        trainer: &str,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let name = "bench-1".parse().unwrap();
        let data_dir = folder.join("agent");
        let mut settings = Settings::new(name, fleet.url(), data_dir.clone()).unwrap();
        settings.card = CardSettings {
            device: DeviceChoice::Cpu,
            vram: Some(ByteSize(10 << 30)),
            name: Some("RTX 3080".into()),
            ..CardSettings::default()
        };
        settings.program = script(folder, trainer);
        settings.stop_grace = Duration::from_secs(5);
        change(&mut settings);
        let (shutdown, asked) = oneshot::channel();
        let running = tokio::spawn(fleetune_agent::run(settings, async {
            let _ = asked.await;
        }));
        Self { data_dir, running, shutdown: Some(shutdown) }
    }

    pub(crate) fn attempt(&self, name: &str) -> PathBuf {
        self.data_dir.join("attempts").join(name)
    }

    pub(crate) async fn shut_down(mut self) -> Result<(), AgentError> {
        let _ = self.shutdown.take().unwrap().send(());
        self.ended().await
    }

    pub(crate) async fn ended(self) -> Result<(), AgentError> {
        tokio::time::timeout(PATIENCE, self.running).await.expect("the agent ends").unwrap()
    }

    /// As far as one process can: everything stops where it stands.
    pub(crate) async fn die(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

/// Waits for something on disk.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A job whose inputs are stored.
pub(crate) fn job(fleet: &Fleet) -> JobSpec {
    let model = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,
        "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":512,
        "max_position_embeddings":512,"rms_norm_eps":1e-5}"#;
    let input = |role, name: &str, text: &str| {
        let (blob, bytes) = (fleet.store(text.as_bytes()), ByteSize(text.len() as u64));
        let name = FileName::try_from(name.to_owned()).unwrap();
        Input { role, file: ArtifactFile { name, blob, bytes } }
    };
    JobSpec {
        name: "trial".into(),
        priority: 0,
        user: String::new(),
        sweep: None,
        sweep_keys: BTreeMap::new(),
        work: Work::Train {
            recipe: Box::new(
                Recipe::read("model_name_or_path: base\ndataset_name: a.jsonl").unwrap(),
            ),
        },
        inputs: vec![
            input(InputRole::Model, "config.json", model),
            input(InputRole::Data, "a.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n"),
        ],
        model: ModelSpec::from_hf_config(model).unwrap(),
        estimates: BTreeMap::new(),
    }
}

/// An artifact of one file.
pub(crate) fn artifact(fleet: &Fleet, name: &str, text: &str) -> v1::Artifact {
    let file = ArtifactFile {
        name: FileName::try_from(name.to_owned()).unwrap(),
        blob: fleet.store(text.as_bytes()),
        bytes: ByteSize(text.len() as u64),
    };
    let kind = fleetune_shared::ArtifactKind::Checkpoint;
    Artifact { kind, step: 4, files: vec![file] }.into()
}

/// A program of these lines. Written by another process: a file that this one ever held open for writing may be
/// refused by `exec` while a third one forks.
fn script(folder: &Path, lines: &str) -> PathBuf {
    let path = folder.join("trainer");
    let write = format!("rm -f '{0}'; cat > '{0}'; chmod +x '{0}'", path.display());
    let mut shell = Command::new("sh").args(["-c", &write]).stdin(Stdio::piped()).spawn().unwrap();
    let text = format!("#!/bin/sh\n{WORDS}\n{lines}\n");
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
    path
}

/// What a trainer says, for scripts.
const WORDS: &str = r#"
started() { echo '{"event":"started","step":0,"steps_total":9}'; }
step() { echo "{\"event\":\"step\",\"step\":$1,\"loss\":1.5,\"grad_norm\":1,\"learning_rate\":0.1,\"supervised_tokens\":4,\"tokens_per_second\":9,\"epoch\":0.1}"; }
checkpoint() { mkdir -p "out/checkpoint-$1"; echo "state $1" > "out/checkpoint-$1/state"; echo "{\"event\":\"checkpoint\",\"step\":$1,\"folder\":\"checkpoint-$1\"}"; }
finished() { echo weights > out/adapter_model.safetensors; echo '{}' > out/adapter_config.json; echo '{}' > out/metrics.jsonl; echo '{"event":"finished","summary":{"steps":9}}'; }
failed() { echo "{\"event\":\"failed\",\"kind\":\"$1\",\"message\":\"$2\"}"; exit 1; }
"#;
