//! What a coordinator is told when it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where a coordinator listens unless told otherwise: on this machine only, since nobody is asked who they are.
pub const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

/// What a coordinator is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Log, blobs and journals; one coordinator each.
    pub data_dir: PathBuf,
    /// Where users and agents reach it; port 0 takes any free one.
    pub listen: SocketAddr,
    /// How often an agent says that it lives.
    pub heartbeat: Duration,
    /// How long an agent may be silent before its jobs go back to the queue.
    pub lease: Duration,
    /// After so many log entries, a snapshot replaces them.
    pub snapshot_entries: u64,
    /// Blobs that no job names are kept this long, to the minute, so that an upload survives until its submit.
    pub blob_age_min: Duration,
}

impl Settings {
    /// The usual, in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: LISTEN_DEFAULT,
            heartbeat: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            snapshot_entries: 8192,
            blob_age_min: Duration::from_secs(600),
        }
    }
}
