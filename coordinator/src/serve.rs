//! A coordinator from start to stop.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::artifacts::BlobStore;
use crate::clock::Clock;
use crate::coordinator::Coordinator;
use crate::dispatch::{Dispatcher, Sessions};
use crate::fleet_state::FleetState;
use crate::journal::{Journal, Limits};
use crate::raft::storage::{Database, Disk, Identity, Log};
use crate::raft::{Alone, Machine as _, Node, NodeSettings};
use crate::{Settings, grpc};

/// How long open requests are waited for when stopping.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Files and connections that are open at once.
const FILES_MAX: u64 = 65_536;

/// Why a coordinator did not start, or ended without being asked.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct ServeError(#[from] Fault);

#[derive(Debug, Error)]
enum Fault {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("another coordinator runs in {0}; stop it first, or give this one another folder")]
    Taken(PathBuf),
    #[error("cannot listen on {address}: {source}; is another coordinator running there?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Storage(#[from] crate::raft::storage::StorageError),
    #[error(transparent)]
    Node(#[from] crate::raft::NodeError),
    #[error(transparent)]
    Machine(#[from] crate::raft::MachineError),
    #[error(transparent)]
    Blobs(#[from] crate::artifacts::BlobError),
    #[error("the node does not lead: {0}")]
    Lead(#[from] crate::raft::ProposeError),
    #[error("the network service ended: {0}")]
    Network(#[from] tonic::transport::Error),
    #[error("a part of the coordinator panicked")]
    Panicked,
    #[error(
        "a lease of {lease:?} with a heartbeat every {heartbeat:?}: a lease is at least three heartbeats"
    )]
    Lease { lease: Duration, heartbeat: Duration },
}

/// Runs a coordinator until `shutdown` resolves; `ready` is told the bound address once requests are answered.
///
/// # Errors
/// When it cannot start (a folder in use or damaged, an address taken), and when it can no longer promise that what it
/// acknowledges is durable: the process must end then.
pub async fn serve(
    settings: Settings,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    run(settings, ready, shutdown).await.map_err(ServeError)
}

async fn run(
    settings: Settings,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Fault> {
    let Settings { lease, heartbeat, .. } = settings;
    if heartbeat.is_zero() || lease < heartbeat * 3 {
        return Err(Fault::Lease { lease, heartbeat });
    }
    allow_files();
    let folder = &settings.data_dir;
    let _lock = lock(folder)?;
    let address = settings.listen;
    let listen = |source| Fault::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;

    let log = open_log(&folder.join("raft"))?;
    let identity = log.identity().clone();
    let (sender, events) = mpsc::unbounded_channel();
    let node_settings =
        NodeSettings { snapshot_entries: settings.snapshot_entries, ..NodeSettings::default() };
    let (node, mut ended) = Node::start(log, FleetState::default(), Alone, &node_settings, sender)?;
    let stopping = CancellationToken::new();
    let coordinator = Arc::new(Coordinator {
        node,
        blobs: BlobStore::open(folder)?,
        journal: Journal::new(&folder.join("jobs"), Limits::default()),
        sessions: Sessions::default(),
        disk: Disk::under(folder),
        clock: Clock::start(),
        heartbeat,
        lease,
        blob_age_min: settings.blob_age_min,
        stopping: stopping.clone(),
    });
    // Everything ever acknowledged is in the state before the first request is answered.
    if let Err(error) = coordinator.node.catch_up().await {
        ended.wait().await?;
        return Err(error.into());
    }
    let mut dispatcher = tokio::spawn(Dispatcher::new(Arc::clone(&coordinator), events).run());
    let mut server = tokio::spawn(grpc::serve(Arc::clone(&coordinator), listener));
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address can submit jobs and fetch results");
    }
    tracing::info!(%address, cluster = identity.cluster, node = identity.node, "coordinator is up");
    ready(address);

    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        end = ended.wait() => end.map_err(Fault::from),
        end = &mut server => match end {
            Ok(end) => end.map_err(Fault::from),
            Err(_) => Err(Fault::Panicked),
        },
        // Ends early when the node does, a moment before the node says why.
        _ = &mut dispatcher => match tokio::time::timeout(STOP_WITHIN, ended.wait()).await {
            Ok(Err(error)) => Err(error.into()),
            _ => Err(Fault::Panicked),
        },
    };
    stopping.cancel();
    if outcome.is_err() {
        // What is not durable must not be served for a moment longer.
        server.abort();
        return outcome;
    }
    if tokio::time::timeout(STOP_WITHIN, &mut server).await.is_err() {
        tracing::warn!("open requests were cut off");
        server.abort();
    }
    // Ends by the token.
    dispatcher.await.map_err(|_| Fault::Panicked)?;
    coordinator.node.stop();
    ended.wait().await.map_err(Fault::from)
}

/// Each agent and user is a connection, and so a file of this process: it takes what it may have instead of what shells
/// give unasked.
fn allow_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(now, allowed)| {
        let wanted = allowed.min(FILES_MAX);
        if now < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, allowed) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "how many connections can be open at once stays as it was");
    }
}

/// One coordinator per folder, for as long as the file is held.
fn lock(folder: &Path) -> Result<File, Fault> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Fault::Io { action, path, source }
    };
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Fault::Taken(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(io("lock", &path)(source)),
    }
}

/// The log in `folder`; in an empty one, that of a new cluster of one.
fn open_log(folder: &Path) -> Result<Log<Database>, Fault> {
    match Log::open(Database::open(folder)?)? {
        Ok(log) => Ok(log),
        Err(empty) => {
            let fresh = uuid::Uuid::new_v4();
            let node = fresh.as_u64_pair().0.max(1);
            let identity = Identity { cluster: fresh.to_string(), node };
            let state = FleetState::default().snapshot()?;
            Ok(Log::found(empty, identity, &[node], &state)?)
        }
    }
}
