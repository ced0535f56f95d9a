//! Whatever a request can run into, and the one place where it becomes a gRPC status. The message is for people and
//! says what to do; the code is for clients that decide whether to try again.

use fleetune_proto::ConvertError;
use fleetune_scheduler::state::Refusal;
use fleetune_shared::ByteSize;
use thiserror::Error;
use tonic::{Code, Status};

use crate::artifacts::BlobError;
use crate::raft::ProposeError;

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// It says nothing sensible.
    #[error("{0}")]
    Invalid(String),
    /// It asks for too much.
    #[error("{0}")]
    TooMuch(String),
    /// It was sound, but something it needs is not there.
    #[error("{0}")]
    Unready(String),
    /// The sender is not who may say this any more.
    #[error("{0}")]
    Superseded(String),
    /// It took too long.
    #[error("{0}")]
    TooSlow(String),
    #[error("too many requests of this kind are under way, try again")]
    Busy,
    #[error("the coordinator's disk has only {0} left; free some, running jobs go on meanwhile")]
    DiskFull(ByteSize),
    #[error("the coordinator is stopping")]
    Stopping,
    #[error("a defect in the coordinator: {0}")]
    Defect(String),
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Defect(error.to_string())
    }
}

impl Error {
    /// Whether the same request may be taken later: nothing is wrong with it.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Propose(_) | Self::Busy | Self::DiskFull(_) | Self::Stopping => true,
            Self::TooSlow(_) | Self::Defect(_) | Self::Blob(BlobError::Io { .. }) => true,
            Self::Refused(_) | Self::Blob(_) | Self::Convert(_) | Self::Invalid(_) => false,
            Self::TooMuch(_) | Self::Unready(_) | Self::Superseded(_) => false,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::UnknownJob(_) | Refusal::UnknownAgent(_) => Code::NotFound,
                Refusal::NameTaken(_) => Code::AlreadyExists,
                _ => Code::FailedPrecondition,
            },
            Self::Propose(_) | Self::Busy | Self::Stopping => Code::Unavailable,
            Self::Blob(error) => match error {
                BlobError::Missing(_) => Code::NotFound,
                BlobError::Offset { .. } | BlobError::End { .. } | BlobError::Cut { .. } => {
                    Code::OutOfRange
                }
                BlobError::Contended(_) => Code::Aborted,
                BlobError::Length { .. } | BlobError::Chunk(_) => Code::InvalidArgument,
                BlobError::Mismatch { .. } | BlobError::Damaged(_) => Code::DataLoss,
                BlobError::Io { .. } => Code::Internal,
            },
            Self::Convert(_) | Self::Invalid(_) => Code::InvalidArgument,
            Self::TooMuch(_) | Self::DiskFull(_) => Code::ResourceExhausted,
            Self::Unready(_) => Code::FailedPrecondition,
            Self::Superseded(_) => Code::Aborted,
            Self::TooSlow(_) => Code::DeadlineExceeded,
            Self::Defect(_) => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = error.code();
        if code == Code::Internal {
            tracing::error!(%error, "a request failed");
        }
        Self::new(code, error.to_string())
    }
}
