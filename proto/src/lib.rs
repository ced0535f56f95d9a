//! The wire: messages generated from `proto/`, conversions between them and the words of `shared`, and the client.

/// Messages and services as generated; `shared` has the words to work with.
#[allow(clippy::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("fleetune.v1");
}
