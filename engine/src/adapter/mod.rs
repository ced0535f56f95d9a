//! Adapters: what is laid beside a frozen base, and how it lies on disk, which is exactly as PEFT writes it.
//!
//! `model` holds the pairs while they learn; this module makes fresh ones, reads them and writes them.

mod config;
mod disk;
mod lora;

pub use config::config_of;
pub use disk::{load, save};
pub use lora::Adapter;
