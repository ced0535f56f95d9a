//! How nodes reach each other: raft's messages as bytes nobody in between looks into.

/// Carries messages to other nodes. May lose, repeat and reorder them: raft copes.
pub(crate) trait Network: Send + 'static {
    fn send(&mut self, to: u64, message: Vec<u8>);
}

/// The network of a cluster of one.
#[derive(Debug)]
pub(crate) struct Alone;

impl Network for Alone {
    fn send(&mut self, to: u64, _: Vec<u8>) {
        tracing::warn!(to, "a message to another node, but this one is alone");
    }
}
