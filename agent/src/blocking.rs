//! Work that may wait for a disk: an agent has one thread for everything else, heartbeats among it.

use std::io;

use tokio::task::spawn_blocking;

/// Does it on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
