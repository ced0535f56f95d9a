//! One error for whatever goes wrong between here and a coordinator.

use std::path::Path;

use thiserror::Error;
use tonic::{Code, Status};

use crate::ConvertError;

/// What kind of error, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// No coordinator answers, or not in time.
    Unavailable,
    /// No such job, agent or blob.
    NotFound,
    /// The request says nothing sensible.
    Invalid,
    /// The request is sound but not possible as things stand.
    Refused,
    /// A limit was reached.
    Exhausted,
    /// Bytes that do not match their hash.
    Corrupt,
    /// A local file.
    Io,
    /// A defect, here or there.
    Internal,
}

impl ErrorCode {
    /// The word shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Exhausted => "exhausted",
            Self::Corrupt => "corrupt",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

/// What went wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ClientError {
    /// Of what kind.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ClientError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::new(ErrorCode::Io, format!("{}: {error}", path.display()))
    }

    /// Nobody answers at `address`.
    pub(super) fn absent(address: &str) -> Self {
        Self::new(ErrorCode::Unavailable, format!("no coordinator answers at {address}"))
            .with_hint("is a coordinator running there? start one with `fleetune up`")
    }

    pub(super) fn of_status(status: &Status, address: &str) -> Self {
        let code = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => ErrorCode::Unavailable,
            Code::NotFound => ErrorCode::NotFound,
            Code::InvalidArgument | Code::OutOfRange => ErrorCode::Invalid,
            Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => ErrorCode::Refused,
            Code::PermissionDenied | Code::Unauthenticated => ErrorCode::Refused,
            Code::ResourceExhausted => ErrorCode::Exhausted,
            Code::DataLoss => ErrorCode::Corrupt,
            _ => ErrorCode::Internal,
        };
        if status.code() == Code::Unimplemented {
            return Self::new(code, format!("{address} does not know this request"))
                .with_hint("is that port a fleetune coordinator of the same version?");
        }
        if is_transport(status) {
            return Self::absent(address);
        }
        Self::new(code, status.message())
    }
}

impl From<ConvertError> for ClientError {
    fn from(error: ConvertError) -> Self {
        Self::new(ErrorCode::Internal, format!("the coordinator's answer: {error}"))
            .with_hint("is the coordinator of the same version?")
    }
}

/// Whether the connection failed, rather than the coordinator having answered with a refusal.
pub(super) fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || (status.code() == Code::Unknown && status.message().contains("transport error"))
}

/// Whether the same request may succeed in a moment.
pub(super) fn is_transient(status: &Status) -> bool {
    is_transport(status) || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}
