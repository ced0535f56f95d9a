//! A stored blob into a stream of answers, as fast as they are taken.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Chunks, StoredError};
use crate::v1;

/// Chunks on their way to whoever asked.
pub type ChunkStream = ReceiverStream<Result<v1::Chunk, Status>>;

/// Chunks that may wait for a slow reader.
const CHUNKS_WAITING_MAX: usize = 2;
/// A reader that takes nothing for so long is gone.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Gives `chunks` away. `held` is let go with the last of them; `refused` makes a status of what goes wrong.
pub fn give(
    mut chunks: Chunks,
    held: impl Send + 'static,
    refused: impl FnOnce(StoredError) -> Status + Send + 'static,
) -> ChunkStream {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    tokio::spawn(async move {
        let _held = held;
        loop {
            // Files are read on threads that may block.
            let read = spawn_blocking(move || (chunks.next_chunk(), chunks)).await;
            let Ok((chunk, again)) = read else { return };
            chunks = again;
            match chunk {
                Ok(None) => return,
                Ok(Some(bytes)) => {
                    let message = Ok(v1::Chunk { bytes });
                    if sender.send_timeout(message, IDLE_MAX).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = sender.send_timeout(Err(refused(error)), IDLE_MAX).await;
                    return;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}
