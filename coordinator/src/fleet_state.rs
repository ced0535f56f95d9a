//! The scheduler's state as the machine that the log is replayed into.

use fleetune_scheduler::state::{Applied, Command, Effect, Refusal, Reply, State};

use crate::raft::{Machine, MachineError};

/// The replicated state.
#[derive(Debug, Default)]
pub(crate) struct FleetState(pub(crate) State);

/// A command as the log holds it. Read back before anyone relies on it: one that cannot be (JSON has no NaN) would stop
/// this node for good.
pub(crate) fn encode(command: &Command) -> Result<Vec<u8>, MachineError> {
    let bytes = serde_json::to_vec(command).map_err(|error| MachineError(error.to_string()))?;
    decode(&bytes)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Command, MachineError> {
    serde_json::from_slice(bytes).map_err(|error| MachineError(error.to_string()))
}

impl Machine for FleetState {
    type Reply = Result<Reply, Refusal>;
    type Effect = Effect;

    fn apply(&mut self, command: &[u8]) -> Result<(Self::Reply, Vec<Effect>), MachineError> {
        let Applied { reply, effects } = self.0.apply(decode(command)?);
        Ok((reply, effects))
    }

    fn snapshot(&self) -> Result<Vec<u8>, MachineError> {
        serde_json::to_vec(&self.0).map_err(|error| MachineError(error.to_string()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), MachineError> {
        self.0 = serde_json::from_slice(state).map_err(|error| MachineError(error.to_string()))?;
        Ok(())
    }
}
