//! Why an agent ends.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fleetune_proto::client::ClientError;
use thiserror::Error;

use crate::probe::ProbeError;

/// Why an agent ends, or never starts.
#[derive(Debug, Error)]
pub enum AgentError {
    /// There is no card to lend.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Two agents on one folder would share trainers and a name.
    #[error(
        "{}: another agent runs on this folder; stop it, or give this one its own --data-dir",
        .0.display()
    )]
    Locked(PathBuf),
    /// The agent's own files.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an address.
    #[error("--join: {0}")]
    Address(#[from] ClientError),
    /// Nobody could fetch anything there.
    #[error(
        "--share: cannot listen on {address}: {source}; is another agent sharing there? give another address"
    )]
    Share {
        /// Where it was to listen.
        address: SocketAddr,
        /// Why it does not.
        source: io::Error,
    },
    /// It listens on every address, and cannot tell which of them others know.
    #[error(
        "--share: which address others are to dial is not known ({0}); give --share-as HOST:PORT"
    )]
    ShareAs(io::Error),
    /// The coordinator will not have this agent, and will not later.
    #[error("the coordinator at {address} refused this agent: {why}")]
    Refused {
        /// Where it is.
        address: String,
        /// What it said.
        why: String,
    },
}

impl AgentError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
