//! Work that may wait for a disk, beside the threads that wait for the network.

use tokio::task::spawn_blocking;

use super::{ClientError, ErrorCode};

/// Does it on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ClientError> {
    spawn_blocking(work).await.map_err(|e| ClientError::new(ErrorCode::Internal, e.to_string()))
}
