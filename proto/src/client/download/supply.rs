//! Who may be asked for a blob beside the coordinator, and what became of it.

use std::fmt;

use fleetune_shared::ByteSize;

use crate::client::{Client, ClientError};

/// Another agent that may have a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, for people.
    pub name: String,
    /// Where it serves blobs, as `HOST:PORT`.
    pub address: String,
}

impl Peer {
    pub(super) fn client(&self) -> Result<Client, ClientError> {
        Client::connect(&self.address)
    }
}

/// The peers of one download; afterwards also where its bytes came from.
#[derive(Clone, Debug, Default)]
pub struct Supply {
    /// Asked first, and all at once. One that fails is taken out.
    pub peers: Vec<Peer>,
    /// What was wrong with those that are out.
    pub failures: Vec<String>,
    /// Bytes of an earlier, cut download that were right.
    bytes_kept: u64,
    bytes_from_coordinator: u64,
    /// By the peer's name.
    bytes_from_peers: Vec<(String, u64)>,
}

impl Supply {
    /// To be tried before the coordinator.
    #[must_use]
    pub fn of(peers: Vec<Peer>) -> Self {
        Self { peers, ..Self::default() }
    }

    /// Whether anything came at all, or was there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.to_string().is_empty()
    }

    pub(super) fn fails(&mut self, peer: &Peer, why: &str) {
        self.peers.retain(|other| other != peer);
        self.failures.push(format!("agent {} at {}: {why}", peer.name, peer.address));
    }

    /// So much was here when the download began; tries that follow find what earlier ones brought.
    pub(super) fn kept(&mut self, bytes: u64) {
        let brought = self.bytes_from_peers.iter().map(|(_, bytes)| bytes).sum::<u64>();
        self.bytes_kept = bytes.saturating_sub(brought + self.bytes_from_coordinator);
    }

    pub(super) fn came_from(&mut self, peer: &Peer, bytes: u64) {
        match self.bytes_from_peers.iter_mut().find(|(name, _)| *name == peer.name) {
            Some((_, sum)) => *sum += bytes,
            None => self.bytes_from_peers.push((peer.name.clone(), bytes)),
        }
    }

    pub(super) fn came_from_coordinator(&mut self, bytes: u64) {
        self.bytes_from_coordinator += bytes;
    }
}

/// `8.0 MiB from agent one, 4.0 MiB from the coordinator, 3.0 MiB were here`; nothing for nothing.
impl fmt::Display for Supply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        let mut add = |bytes: u64, whence: String| {
            if bytes > 0 {
                parts.push(format!("{} {whence}", ByteSize(bytes)));
            }
        };
        for (name, bytes) in &self.bytes_from_peers {
            add(*bytes, format!("from agent {name}"));
        }
        add(self.bytes_from_coordinator, "from the coordinator".into());
        add(self.bytes_kept, "were here".into());
        f.write_str(&parts.join(", "))
    }
}
