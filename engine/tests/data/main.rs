//! Data as users hand it over: good, odd and bad.

mod bad_models;
mod bad_rows;
mod bad_templates;
mod bench;
mod files;
mod layouts;
mod masks;
mod opinions;
mod sets;
mod smollm2;
mod vocabularies;

#[path = "../places/mod.rs"]
mod places;
