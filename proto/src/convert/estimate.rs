//! Estimates.

use fleetune_shared::{ByteSize, Estimate};

use super::ConvertError;
use crate::v1;

impl From<Estimate> for v1::Estimate {
    fn from(e: Estimate) -> Self {
        Self {
            weights: e.weights.0,
            adapter: e.adapter.0,
            gradients: e.gradients.0,
            optimizer: e.optimizer.0,
            activations: e.activations.0,
            logits: e.logits.0,
            workspace: e.workspace.0,
            runtime: e.runtime.0,
        }
    }
}

impl TryFrom<v1::Estimate> for Estimate {
    type Error = ConvertError;
    fn try_from(e: v1::Estimate) -> Result<Self, ConvertError> {
        let parts = [
            e.weights,
            e.adapter,
            e.gradients,
            e.optimizer,
            e.activations,
            e.logits,
            e.workspace,
            e.runtime,
        ];
        // So that a sum of pieces never overflows.
        if parts.iter().any(|bytes| *bytes > 1 << 60) {
            return Err(ConvertError::new("has a piece above 2^60 bytes"));
        }
        let [weights, adapter, gradients, optimizer, activations, logits, workspace, runtime] =
            parts.map(ByteSize);
        Ok(Self { weights, adapter, gradients, optimizer, activations, logits, workspace, runtime })
    }
}
