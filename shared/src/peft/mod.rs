//! PEFT's adapters as plain values: the configuration on disk, which modules it names, and what that comes to on a
//! model.
//!
//! ```text
//!   recipe ─▶ AdapterConfig ─layout(ModelSpec)─▶ AdapterLayout ─▶ estimate (counts), engine (tensors)
//!   adapter_config.json ─┘
//! ```

mod config;
mod layout;
mod lint;
mod recipe;
mod targets;

pub use config::AdapterConfig;
pub use layout::{AdaptedModule, AdapterLayout, AdapterShape, ModuleKind};
pub use lint::{Lint, Reader};
pub(crate) use targets::compile;
pub use targets::{AdapterTargets, Pattern, TargetError};
