//! What a self-test found of one operation.

use serde::Serialize;

/// What an operation's speed is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Floating-point operations: the bound is arithmetic.
    #[serde(rename = "flop/s")]
    Flops,
    /// Bytes read and written: the bound is memory.
    #[serde(rename = "byte/s")]
    Bytes,
}

/// Numbers of an operation that ran.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The largest relative difference from the twin.
    pub difference: f64,
    /// Of the report's unit.
    pub per_second: f64,
}

/// One operation.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub op: &'static str,
    /// The largest difference that passes.
    pub tolerance: f64,
    /// What its speed is counted in.
    pub unit: Unit,
    /// What was measured, or why nothing was.
    pub outcome: Result<Measured, String>,
}

impl Report {
    /// Whether the operation ran and agrees with its twin.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|measured| measured.difference <= self.tolerance)
    }
}
