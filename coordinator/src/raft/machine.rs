//! What the log is replayed into. The node knows nothing of jobs; the state machine knows nothing of logs.

use thiserror::Error;

/// A deterministic state machine: the same commands in the same order give the same state, byte for byte.
pub(crate) trait Machine: Send + Sync + 'static {
    /// What an entry of the log says.
    type Command: Send + 'static;
    /// What a command's sender is told.
    type Reply: Send + 'static;
    /// What the leader is to do about it.
    type Effect: Send + 'static;

    /// Reads an entry of the log.
    ///
    /// # Errors
    /// When it is not understood. The node stops: skipping it would make this node's state differ.
    fn read(entry: &[u8]) -> Result<Self::Command, MachineError>;

    /// Carries out a command.
    fn apply(&mut self, command: Self::Command) -> (Self::Reply, Vec<Self::Effect>);

    /// The whole state.
    fn snapshot(&self) -> Result<Vec<u8>, MachineError>;

    /// Becomes a state that [`snapshot`](Self::snapshot) gave.
    fn restore(&mut self, state: &[u8]) -> Result<(), MachineError>;
}

/// A command on its way into the log.
#[derive(Debug)]
pub(crate) struct Proposal<C> {
    /// As the log holds it.
    pub(crate) entry: Vec<u8>,
    /// What was read from just this entry. Where nothing was, it is read when it is carried out.
    pub(crate) command: Option<C>,
}

impl<C> From<Vec<u8>> for Proposal<C> {
    fn from(entry: Vec<u8>) -> Self {
        Self { entry, command: None }
    }
}

/// Why a command or a snapshot means nothing to this version.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct MachineError(pub(crate) String);
