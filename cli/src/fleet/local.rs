//! A coordinator and agents inside this process, as `up` and `demo` have them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use fleetune_agent::AgentError;
use fleetune_coordinator::{ServeError, Settings, serve};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::Failure;
use crate::output::Style;

/// A service that runs until it is stopped.
struct Running<E> {
    what: &'static str,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), E>>,
    ended: bool,
}

impl<E: std::fmt::Display> Running<E> {
    /// Resolves when the service ends, asked or not. Cancel-safe.
    async fn ended(&mut self) -> Result<(), Failure> {
        if self.ended {
            return Ok(());
        }
        let end = (&mut self.task).await;
        self.ended = true;
        match end {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::new(self.what, error.to_string())),
            Err(error) => Err(Failure::new("internal", format!("the {}: {error}", self.what))),
        }
    }

    async fn stop(mut self) -> Result<(), Failure> {
        drop(self.stop.take());
        self.ended().await
    }
}

/// Resolves once the sender is dropped or used.
async fn told(receiver: oneshot::Receiver<()>) {
    let _ = receiver.await;
}

/// A coordinator in this process.
pub(crate) struct LocalCoordinator {
    address: SocketAddr,
    running: Running<ServeError>,
}

impl LocalCoordinator {
    /// Starts one and waits until it answers.
    pub(crate) async fn start(settings: Settings) -> Result<Self, Failure> {
        let (stop, stopped) = oneshot::channel();
        let (up, ready) = oneshot::channel();
        let ready_sender = move |address| {
            let _ = up.send(address);
        };
        let task = tokio::spawn(Box::pin(serve(settings, ready_sender, told(stopped))));
        let mut running = Running { what: "coordinator", stop: Some(stop), task, ended: false };
        match ready.await {
            Ok(address) => Ok(Self { address, running }),
            Err(_) => {
                running.ended().await?;
                Err(Failure::new("internal", "the coordinator ended before it was up"))
            }
        }
    }

    /// Where this machine reaches it.
    pub(crate) fn address(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        format!("http://{address}")
    }

    pub(crate) async fn ended(&mut self) -> Result<(), Failure> {
        self.running.ended().await
    }

    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.running.stop().await
    }
}

/// An agent in this process; its trainers are processes of their own.
pub(crate) struct LocalAgent(Running<AgentError>);

impl LocalAgent {
    pub(crate) fn start(settings: fleetune_agent::Settings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(Box::pin(fleetune_agent::run(settings, told(stopped))));
        Self(Running { what: "agent", stop: Some(stop), task, ended: false })
    }

    pub(crate) async fn ended(&mut self) -> Result<(), Failure> {
        self.0.ended().await
    }

    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.0.stop().await
    }
}

/// Resolves when this process is asked to stop: Ctrl-C, or SIGTERM from whoever runs it.
pub(crate) async fn asked_to_stop() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let terminated = async {
        match &mut terminate {
            Ok(signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

/// Where a service keeps its files unless told otherwise: the user's own data folder.
pub(crate) fn data_folder(part: &str) -> Result<PathBuf, Failure> {
    let set = |key| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".local/share"));
    set("XDG_DATA_HOME").or_else(home).map(|base| base.join("fleetune").join(part)).ok_or_else(
        || Failure::new("io", "neither XDG_DATA_HOME nor HOME is set").hint("give --data-dir"),
    )
}

/// Sends the log to stderr; `FLEETUNE_LOG` says how much of it.
pub(crate) fn listen_to_log(level: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = std::env::var("FLEETUNE_LOG")
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(format!("{level},sled=warn,h2=warn,hyper=warn")));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(Style::of(&std::io::stderr()).colour)
        .try_init();
}
