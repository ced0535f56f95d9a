//! Who else has what a job reads.

use std::collections::BTreeSet;

use crate::{AgentName, BlobHash};

/// An agent that hands out blobs it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub agent: AgentName,
    /// Where it serves them, as `HOST:PORT`.
    pub address: String,
    /// Those worth asking it for.
    pub blobs: BTreeSet<BlobHash>,
}
