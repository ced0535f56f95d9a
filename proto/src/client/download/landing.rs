//! A download's file while it grows. It holds verified chunks, in any order, with holes between them; what it holds is
//! found again by its outline, so nothing is written down beside it.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::missing::Missing;
use crate::blob::{CHUNK_BYTES, Outline};
use crate::client::blocking::blocking;
use crate::client::error::is_transport;
use crate::client::{ClientError, ErrorCode};
use crate::v1;
use crate::v1::blobs_client::BlobsClient;

/// Why no more came.
#[derive(Debug, Error)]
pub(super) enum Cut {
    /// Whoever sent it went away, or said no.
    #[error("{}", in_words(.0))]
    Status(#[from] Status),
    /// What came is not what was asked for.
    #[error("it sent {0}")]
    Wrong(String),
    /// The file here.
    #[error(transparent)]
    Local(ClientError),
}

fn in_words(status: &Status) -> String {
    match status.code() {
        _ if is_transport(status) => "nobody answers".into(),
        Code::NotFound => "it does not have the blob any more".into(),
        _ => status.message().to_owned(),
    }
}

impl From<Cut> for ClientError {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Local(error) => error,
            Cut::Wrong(what) => Self::new(ErrorCode::Corrupt, format!("what came is {what}"))
                .with_hint("fetch it again"),
            Cut::Status(status) => Self::new(ErrorCode::Internal, status.message()),
        }
    }
}

/// A partial file and what it lacks.
#[derive(Debug)]
pub(super) struct Landing {
    path: PathBuf,
    outline: Arc<Outline>,
    file: Arc<File>,
    missing: Mutex<Missing>,
    bytes_here: AtomicU64,
}

impl Landing {
    /// Opens a partial file and looks which chunks it has.
    pub(super) async fn open(path: PathBuf, outline: Outline) -> Result<Self, ClientError> {
        let look = move || {
            let (mut missing, mut bytes_here) = (Missing::default(), 0);
            let mut options = File::options();
            let file = options.create(true).truncate(false).read(true).write(true).open(&path);
            let file = file.map_err(|error| ClientError::io(&path, &error))?;
            let length = file.metadata().map_err(|error| ClientError::io(&path, &error))?.len();
            let mut chunk = Vec::new();
            for index in 0..outline.chunks() {
                let place = outline.place(index..index + 1);
                chunk.resize((place.end - place.start) as usize, 0);
                let here = place.end <= length
                    && file.read_exact_at(&mut chunk, place.start).is_ok()
                    && outline.has(index, &chunk);
                if here {
                    bytes_here += chunk.len() as u64;
                } else {
                    missing.give_back(index..index + 1);
                }
            }
            Ok(Self {
                path,
                outline: Arc::new(outline),
                file: Arc::new(file),
                missing: Mutex::new(missing),
                bytes_here: AtomicU64::new(bytes_here),
            })
        };
        blocking(look).await?
    }

    pub(super) fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Bytes of chunks that are here.
    pub(super) fn bytes_here(&self) -> u64 {
        self.bytes_here.load(Ordering::Relaxed)
    }

    pub(super) fn lacks_something(&self) -> bool {
        !self.missing().is_empty()
    }

    /// Chunks to fetch, at most so many, that nobody else will.
    pub(super) fn take(&self, at_most: u64) -> Option<Range<u64>> {
        self.missing().take(at_most)
    }

    fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches chunks that were taken; those that do not come go back. `on_chunk` hears the length of each.
    pub(super) async fn fill(
        &self,
        blobs: BlobsClient<Channel>,
        chunks: Range<u64>,
        silence_max: Duration,
        on_chunk: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Cut> {
        let mut next = chunks.start;
        let filled = self.receive(blobs, &mut next, chunks.end, silence_max, on_chunk).await;
        self.missing().give_back(next..chunks.end);
        filled
    }

    async fn receive(
        &self,
        mut blobs: BlobsClient<Channel>,
        next: &mut u64,
        end: u64,
        silence_max: Duration,
        on_chunk: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Cut> {
        let place = self.outline.place(*next..end);
        let hash = self.outline.blob().0.to_vec();
        let length = place.end - place.start;
        let request = v1::GetRequest { hash, offset: place.start, length };
        let mut stream = within(silence_max, blobs.get(request)).await?.into_inner();
        let mut came = Vec::new();
        while *next < end {
            let size = self.size_of(*next);
            // A chunk may come in pieces, but no slower than it may come whole.
            let fill = async {
                while came.len() < size {
                    match stream.message().await? {
                        Some(piece) => came.extend(piece.bytes),
                        None => return Err(Status::unavailable("the stream ended early")),
                    }
                }
                Ok(())
            };
            within(silence_max, fill).await?;
            let rest = came.split_off(size);
            self.land(*next, std::mem::replace(&mut came, rest)).await?;
            *next += 1;
            self.bytes_here.fetch_add(size as u64, Ordering::Relaxed);
            on_chunk(size as u64);
        }
        if came.is_empty() { Ok(()) } else { Err(Cut::Wrong("more than it was asked for".into())) }
    }

    fn size_of(&self, chunk: u64) -> usize {
        let place = self.outline.place(chunk..chunk + 1);
        (place.end - place.start) as usize
    }

    /// Writes a chunk to its place if it is the one that belongs there.
    async fn land(&self, index: u64, chunk: Vec<u8>) -> Result<(), Cut> {
        let (outline, file) = (Arc::clone(&self.outline), Arc::clone(&self.file));
        let write = move || {
            if outline.has(index, &chunk) {
                file.write_all_at(&chunk, index * CHUNK_BYTES).map(|()| true)
            } else {
                Ok(false)
            }
        };
        match blocking(write).await.map_err(Cut::Local)? {
            Ok(true) => Ok(()),
            Ok(false) => {
                let (number, of) = (index + 1, self.outline.chunks());
                let blob = self.outline.blob().short();
                Err(Cut::Wrong(format!("a damaged chunk, {number} of {of}, of blob {blob}")))
            }
            Err(error) => Err(Cut::Local(ClientError::io(&self.path, &error))),
        }
    }

    /// Everything is here: the file takes its name, durably.
    pub(super) async fn finish(&self, path: &Path) -> Result<Outline, ClientError> {
        let (from, to, file) = (self.path.clone(), path.to_owned(), Arc::clone(&self.file));
        let bytes = self.outline.bytes();
        let rename = move || -> io::Result<()> {
            file.set_len(bytes)?;
            file.sync_all()?;
            fs::rename(from, to)
        };
        blocking(rename).await?.map_err(|error| ClientError::io(path, &error))?;
        Ok(Outline::clone(&self.outline))
    }

    /// Nothing will come of it.
    pub(super) fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(limit, answer).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        Err(Status::deadline_exceeded(format!("it sent no whole chunk within {seconds} s")))
    })
}
