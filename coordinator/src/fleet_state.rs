//! The scheduler's state as the machine that the log is replayed into.

use fleetune_scheduler::state::{Applied, Command, Effect, Refusal, Reply, State};

use crate::raft::{Machine, MachineError, Proposal};

/// The replicated state.
#[derive(Debug, Default)]
pub(crate) struct FleetState(pub(crate) State);

/// A command as the log takes it. Read back before anyone relies on it: one that cannot be (JSON has no NaN) would stop
/// this node for good. What was read is what this node will carry out.
pub(crate) fn encode(command: &Command) -> Result<Proposal<Command>, MachineError> {
    let entry = serde_json::to_vec(command).map_err(|error| MachineError(error.to_string()))?;
    let command = Some(FleetState::read(&entry)?);
    Ok(Proposal { entry, command })
}

impl Machine for FleetState {
    type Command = Command;
    type Reply = Result<Reply, Refusal>;
    type Effect = Effect;

    fn read(entry: &[u8]) -> Result<Command, MachineError> {
        serde_json::from_slice(entry).map_err(|error| MachineError(error.to_string()))
    }

    fn apply(&mut self, command: Command) -> (Self::Reply, Vec<Effect>) {
        let Applied { reply, effects } = self.0.apply(command);
        (reply, effects)
    }

    fn snapshot(&self) -> Result<Vec<u8>, MachineError> {
        serde_json::to_vec(&self.0).map_err(|error| MachineError(error.to_string()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), MachineError> {
        self.0 = serde_json::from_slice(state).map_err(|error| MachineError(error.to_string()))?;
        Ok(())
    }
}
