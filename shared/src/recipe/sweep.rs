//! What `fleetune sweep` varies.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A sweep over recipe keys, in the words of the field's sweep tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepFile {
    /// Every combination, or a seeded random draw. Default `grid`.
    #[serde(default)]
    pub method: SweepMethod,
    /// Draws of a random sweep. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<u64>,
    /// Seed of a random sweep. Default 42.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What each recipe key takes.
    pub parameters: BTreeMap<String, SweepValues>,
}

/// How a sweep picks values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepMethod {
    /// Every combination.
    #[default]
    Grid,
    /// `trials` independent draws.
    Random,
}

/// What one key takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SweepValues {
    /// One of these.
    Choice(Vec<serde_json::Value>),
    /// A number from a range; random sweeps only.
    Range(SweepRange),
}

/// A range of numbers to draw from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepRange {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// How draws spread. Default `uniform`.
    #[serde(default)]
    pub distribution: SweepDistribution,
}

/// How draws from a range spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepDistribution {
    /// Evenly.
    #[default]
    Uniform,
    /// Evenly in the logarithm, as learning rates want it.
    LogUniform,
}
