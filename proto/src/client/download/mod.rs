//! Blobs on their way here, from whoever has them.
//!
//! ```text
//!   outline ──▶ what the partial file lacks ──▶ peers, a few chunks at a time ──▶ the coordinator: what they left
//! ```
//!
//! Every chunk is held against the outline and that against the blob's name, so it does not matter who sends it. A peer
//! that fails once is not asked again; the coordinator is waited for.

mod landing;
mod missing;
mod supply;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fleetune_shared::{BlobHash, ByteSize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::patience::Patience;
use super::{Client, ClientError, ErrorCode};
use crate::blob::Outline;
use crate::v1;

use landing::{Cut, Landing};

pub use supply::{Peer, Supply};

/// Chunks asked of a peer at a time: few, so that several peers share a blob and one that fails leaves little to others.
const PEER_CHUNKS_MAX: u64 = 8;
/// A peer that sends less than a chunk in so long is too slow to wait for.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Before a peer that is busy with others is asked again.
const PEER_PAUSE: Duration = Duration::from_millis(200);
/// The coordinator is worth more waiting: everybody asks it.
const SILENCE_MAX: Duration = Duration::from_secs(60);

impl Client {
    /// Fetches a blob to `path`, which appears only once it is whole and verified. A partial download beside it is
    /// continued.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::Corrupt`], [`ErrorCode::Io`] and any other [`ClientError`].
    pub async fn download(
        &self,
        blob: BlobHash,
        bytes: ByteSize,
        path: &Path,
        on_progress: impl FnMut(u64, u64) + Send,
    ) -> Result<Outline, ClientError> {
        self.download_from(&mut Supply::default(), blob, bytes, path, on_progress).await
    }

    /// The same, from the supply's peers as far as they go. The supply tells afterwards, also after an error, who sent
    /// what and who failed; peers that failed are no part of it any more.
    ///
    /// # Errors
    /// As [`Client::download`]: no failure of a peer is an error.
    pub async fn download_from(
        &self,
        supply: &mut Supply,
        blob: BlobHash,
        bytes: ByteSize,
        path: &Path,
        mut on_progress: impl FnMut(u64, u64) + Send,
    ) -> Result<Outline, ClientError> {
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(|e| ClientError::io(folder, &e))?;
        }
        let outline = self.outline(supply, blob, bytes.0).await?;
        let landing = Arc::new(Landing::open(partial(path, blob), outline).await?);
        supply.kept(landing.bytes_here());
        on_progress(landing.bytes_here(), bytes.0);
        draw_from_peers(supply, &landing).await?;
        let fetched = self.fetch_rest(supply, &landing, &mut on_progress).await;
        if let Err(error) = &fetched
            && error.code == ErrorCode::Corrupt
        {
            landing.discard();
        }
        fetched?;
        landing.finish(path).await
    }

    /// The outline of a blob, from the first who has it.
    async fn outline(
        &self,
        supply: &mut Supply,
        blob: BlobHash,
        bytes: u64,
    ) -> Result<Outline, ClientError> {
        if Outline::bytes_of(bytes) == 0 {
            return Ok(read_outline(blob, bytes, &[])?);
        }
        // The coordinator first: it is little to ask, and most likely there. But it need not be waited for.
        if !supply.peers.is_empty() {
            if let Ok(outline) = self.outline_now(blob, bytes).await {
                return Ok(outline);
            }
            while let Some(peer) = supply.peers.first().cloned() {
                let asked = match peer.client() {
                    Ok(client) => client.outline_now(blob, bytes).await,
                    Err(error) => Err(Cut::Status(Status::invalid_argument(error.message))),
                };
                match asked {
                    Ok(outline) => return Ok(outline),
                    Err(cut) => supply.fails(&peer, &cut.to_string()),
                }
            }
        }
        let message = v1::OutlineRequest { hash: blob.0.to_vec() };
        let limit = outline_limit(bytes);
        let ask = || async {
            self.blobs().max_decoding_message_size(limit).outline(message.clone()).await
        };
        Ok(read_outline(blob, bytes, &self.ask(ask).await?.values)?)
    }

    /// Asks once.
    async fn outline_now(&self, blob: BlobHash, bytes: u64) -> Result<Outline, Cut> {
        let request = v1::OutlineRequest { hash: blob.0.to_vec() };
        let mut blobs = self.blobs().max_decoding_message_size(outline_limit(bytes));
        let reply = timeout(PEER_SILENCE_MAX, blobs.outline(request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer")))?;
        read_outline(blob, bytes, &reply.into_inner().values)
    }

    /// From the coordinator, however often it goes away for a moment.
    async fn fetch_rest(
        &self,
        supply: &mut Supply,
        landing: &Landing,
        on_progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), ClientError> {
        let mut patience = Patience::new();
        while let Some(chunks) = landing.take(u64::MAX) {
            let mut came = 0;
            let mut on_chunk = |bytes| {
                came += bytes;
                on_progress(landing.bytes_here(), landing.outline().bytes());
            };
            let tried = landing.fill(self.blobs(), chunks, SILENCE_MAX, &mut on_chunk).await;
            supply.came_from_coordinator(came);
            if came > 0 {
                self.answered.store(true, Ordering::Relaxed);
                patience.renew();
            }
            match tried {
                Ok(()) => {}
                Err(Cut::Status(status)) => patience.another(self, &status).await?,
                Err(cut) => return Err(cut.into()),
            }
        }
        Ok(())
    }
}

/// Everything the peers give. Those that fail leave what they had taken to the others.
async fn draw_from_peers(supply: &mut Supply, landing: &Arc<Landing>) -> Result<(), ClientError> {
    while !supply.peers.is_empty() && landing.lacks_something() {
        let mut round = JoinSet::new();
        for peer in &supply.peers {
            round.spawn(draw(peer.clone(), Arc::clone(landing)));
        }
        while let Some(drawn) = round.join_next().await {
            let (peer, came, end) =
                drawn.map_err(|error| ClientError::new(ErrorCode::Internal, error.to_string()))?;
            supply.came_from(&peer, came);
            match end {
                Ok(()) => {}
                Err(Cut::Local(error)) => return Err(error),
                Err(cut) => supply.fails(&peer, &cut.to_string()),
            }
        }
    }
    Ok(())
}

/// What one peer gives until nothing is left to take, and the bytes that came of it.
async fn draw(peer: Peer, landing: Arc<Landing>) -> (Peer, u64, Result<(), Cut>) {
    let client = match peer.client() {
        Ok(client) => client,
        Err(error) => return (peer, 0, Err(Cut::Status(Status::invalid_argument(error.message)))),
    };
    let mut came = 0;
    let mut moved = Instant::now();
    let end = loop {
        let Some(chunks) = landing.take(PEER_CHUNKS_MAX) else { break Ok(()) };
        let before = came;
        let mut on_chunk = |bytes| came += bytes;
        let filled = landing.fill(client.blobs(), chunks, PEER_SILENCE_MAX, &mut on_chunk).await;
        if came > before {
            moved = Instant::now();
        }
        match filled {
            Ok(()) => {}
            Err(Cut::Status(status))
                if status.code() == Code::ResourceExhausted
                    && moved.elapsed() < PEER_SILENCE_MAX =>
            {
                sleep(PEER_PAUSE).await;
            }
            Err(cut) => break Err(cut),
        }
    };
    (peer, came, end)
}

/// The outline as the blob's size makes it, and what is around it in its message.
fn outline_limit(bytes: u64) -> usize {
    Outline::bytes_of(bytes) as usize + 1024
}

fn read_outline(blob: BlobHash, bytes: u64, values: &[u8]) -> Result<Outline, Cut> {
    Outline::read(blob, bytes, values)
        .map_err(|error| Cut::Wrong(format!("blob {} with {error}", blob.short())))
}

/// Where a download grows until it is whole; named by its hash, so that it never continues another one.
fn partial(path: &Path, blob: BlobHash) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.partial", blob.short()))
}
