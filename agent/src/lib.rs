//! The agent.
pub mod probe;
mod settings;
pub use settings::{CardSettings, DeviceChoice, Settings};
