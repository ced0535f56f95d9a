//! What the log is replayed into. The node knows nothing of jobs; the state machine knows nothing of logs.

use thiserror::Error;

/// A deterministic state machine: the same commands in the same order give the same state, byte for byte.
pub(crate) trait Machine: Send + Sync + 'static {
    /// What a command's sender is told.
    type Reply: Send + 'static;
    /// What the leader is to do about it.
    type Effect: Send + 'static;

    /// Carries out a command.
    ///
    /// # Errors
    /// When the command is not understood. The node stops: skipping it would make this node's state differ.
    fn apply(&mut self, command: &[u8]) -> Result<(Self::Reply, Vec<Self::Effect>), MachineError>;

    /// The whole state.
    fn snapshot(&self) -> Result<Vec<u8>, MachineError>;

    /// Becomes a state that [`snapshot`](Self::snapshot) gave.
    fn restore(&mut self, state: &[u8]) -> Result<(), MachineError>;
}

/// Why a command or a snapshot means nothing to this version.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct MachineError(pub(crate) String);
