//! Why a model's shape could not be read.

use thiserror::Error;

/// Why a model's shape could not be read.
#[derive(Debug, Error, PartialEq)]
pub enum ModelSpecError {
    /// The text is no JSON object.
    #[error("config.json is not a JSON object: {0}")]
    Json(String),
    /// A key is missing or holds something else.
    #[error("{place}: key `{key}` {found}, expected {expected}")]
    Key {
        /// File or header.
        place: &'static str,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// An architecture this engine does not train.
    #[error("{place}: model type `{found}` is not supported, expected one of: {supported}")]
    Architecture {
        /// File or header.
        place: &'static str,
        /// The type found.
        found: String,
        /// What is supported.
        supported: String,
    },
    /// Numbers that contradict one another.
    #[error("{place}: {why}")]
    Shape {
        /// File or header.
        place: &'static str,
        /// The contradiction, with its numbers.
        why: String,
    },
}
