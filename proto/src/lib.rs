//! The wire: messages generated from `proto/`, conversions between them and the words of `shared`, blobs in verified
//! chunks, and the client.
//!
//! ```text
//!   shared::JobSpec ──From──▶ v1::JobSpec ══ tonic ══▶ v1::JobSpec ──TryFrom──▶ shared::JobSpec
//!                                                          what a peer sent is refused by field
//! ```

pub mod blob;
pub mod client;
mod convert;

pub use client::{Client, ClientError, ErrorCode};
pub use convert::{ConvertError, peak};

/// Messages and services as generated; `shared` has the words to work with.
#[allow(clippy::all, unreachable_pub, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("fleetune.v1");
}
