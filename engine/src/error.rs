//! One error type for the whole room.

use std::path::{Path, PathBuf};

use fleetune_shared::{ByteSize, FailureKind};
use thiserror::Error;

use crate::memory;

/// A result of this room.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Why the engine could not go on.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Recipe, data, model, tokenizer or template is wrong: the text says what, where, found, expected, what to do.
    #[error("{0}")]
    Input(String),
    /// The run needs more memory than it may hold.
    #[error(
        "out of memory: {needed} needed, {limit} allowed; lower per_device_train_batch_size or max_length, \
             or set gradient_checkpointing: true"
    )]
    OutOfMemory {
        /// What was held when the limit was passed.
        needed: ByteSize,
        /// The limit.
        limit: ByteSize,
    },
    /// A card had no room for a tensor.
    #[error(
        "out of memory: the card has {total} and gave no more after {held}; lower per_device_train_batch_size or \
             max_length, or set gradient_checkpointing: true"
    )]
    CardFull {
        /// The most this run held.
        held: ByteSize,
        /// The card's memory, of which others may hold some.
        total: ByteSize,
    },
    /// The loss or a gradient was NaN or infinite.
    #[error("step {step}: {what} is {value}; lower learning_rate or look at the rows of this step")]
    Diverged {
        /// The step.
        step: u64,
        /// `loss` or `grad_norm`.
        what: &'static str,
        /// NaN or infinity.
        value: f64,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The observer asked for an early end.
    #[error("stopped on request after step {step}")]
    Stopped {
        /// Steps done.
        step: u64,
    },
    /// A tensor operation failed: a defect here, or a device that failed.
    #[error("tensor operation: {0}")]
    Tensor(#[source] candle_core::Error),
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        // candle wraps what the driver says in errors of several kinds; all of them name it.
        if !format!("{error:?}").contains("CUDA_ERROR_OUT_OF_MEMORY") {
            return Self::Tensor(error);
        }
        let (held, total) = memory::refusal();
        Self::CardFull { held, total }
    }
}

impl EngineError {
    /// A mistake in what the user handed over.
    pub fn input(text: impl Into<String>) -> Self {
        Self::Input(text.into())
    }

    /// An IO error with its file.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// What kind of failure this is, for whoever decides about another attempt.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Input(_) => FailureKind::Input,
            Self::OutOfMemory { .. } | Self::CardFull { .. } => FailureKind::OutOfMemory,
            Self::Diverged { .. } => FailureKind::Diverged,
            Self::Io { .. } | Self::Stopped { .. } | Self::Tensor(_) => FailureKind::Machine,
        }
    }
}
