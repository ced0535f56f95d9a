//! Blobs on their way up: continued where they were cut, verified by their hash at the other end.

use std::fs;
use std::io::{self, Read, SeekFrom};
use std::path::{Path, PathBuf};

use fleetune_shared::{BlobHash, ByteSize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::blocking::blocking;
use super::patience::Patience;
use super::{CHUNK_BYTES_MAX, Client, ClientError, ErrorCode};
use crate::v1;

/// Files up to this size are sent whole, several in one request.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// The hash of a small file, and what else is around it in its message.
const SMALL_BYTES_AROUND: usize = 64;

/// Bytes done and bytes in all.
type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// What became of one try at moving a blob.
enum Try {
    Done,
    /// The coordinator went away, or said no.
    Failed(Status),
}

impl Client {
    /// How much of each blob is already there: `None` for all of it, otherwise the bytes present.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn stat(&self, blobs: &[BlobHash]) -> Result<Vec<Option<u64>>, ClientError> {
        let message = v1::StatRequest { hashes: blobs.iter().map(|h| h.0.to_vec()).collect() };
        let reply = self.ask(|| async { self.blobs().stat(message.clone()).await }).await?;
        if reply.stats.len() != blobs.len() {
            return Err(ClientError::new(ErrorCode::Internal, "an answer about other blobs"));
        }
        Ok(reply.stats.iter().map(|s| (!s.complete).then_some(s.bytes_present)).collect())
    }

    /// Uploads the first of these files, and with a small one those after it that find room in the same request; returns
    /// what names each of them from now on.
    ///
    /// # Errors
    /// As [`Client::upload_file`].
    pub async fn upload_next(
        &self,
        paths: &[PathBuf],
    ) -> Result<Vec<(BlobHash, ByteSize)>, ClientError> {
        let candidates = paths.to_vec();
        let small = blocking(move || read_small(&candidates)).await??;
        if let (Some(path), true) = (paths.first(), small.is_empty()) {
            return Ok(vec![self.upload_file(path, |_, _| {}).await?]);
        }
        let named = |(blob, bytes): &(BlobHash, Vec<u8>)| (*blob, ByteSize(bytes.len() as u64));
        let named = small.iter().map(named).collect();
        self.put_small(small).await?;
        Ok(named)
    }

    async fn put_small(&self, blobs: Vec<(BlobHash, Vec<u8>)>) -> Result<(), ClientError> {
        let blobs = blobs.into_iter();
        let blobs = blobs.map(|(hash, bytes)| v1::SmallBlob { hash: hash.0.to_vec(), bytes });
        let message = v1::PutSmallRequest { blobs: blobs.collect() };
        let put = || async {
            let answer = self.blobs().put_small(message.clone()).await;
            // Another upload of the same blob is under way.
            answer.map_err(|status| match status.code() {
                Code::Aborted => Status::unavailable(status.message()),
                _ => status,
            })
        };
        self.ask(put).await.map(drop)
    }

    /// Hashes a file and uploads what the coordinator lacks of it; returns what names it from now on.
    ///
    /// # Errors
    /// [`ErrorCode::Io`] for the file, otherwise any [`ClientError`].
    pub async fn upload_file(
        &self,
        path: &Path,
        mut on_progress: impl FnMut(u64, u64) + Send,
    ) -> Result<(BlobHash, ByteSize), ClientError> {
        let (blob, bytes) = hash_file(path).await?;
        let mut patience = Patience::new();
        let mut done_before = 0;
        loop {
            let Some(offset) = self.stat(&[blob]).await?[0] else {
                on_progress(bytes, bytes);
                return Ok((blob, ByteSize(bytes)));
            };
            if offset > done_before {
                patience.renew();
            }
            done_before = offset;
            match self.put(path, blob, bytes, offset, &mut on_progress).await? {
                Try::Done => {
                    on_progress(bytes, bytes);
                    return Ok((blob, ByteSize(bytes)));
                }
                // Another upload of the same blob moved on: ask again how far it is.
                Try::Failed(status)
                    if matches!(status.code(), Code::Aborted | Code::OutOfRange) =>
                {
                    patience.another(self, &Status::unavailable(status.message())).await?;
                }
                Try::Failed(status) => patience.another(self, &status).await?,
            }
        }
    }

    async fn put(
        &self,
        path: &Path,
        blob: BlobHash,
        bytes: u64,
        offset: u64,
        on_progress: Progress<'_>,
    ) -> Result<Try, ClientError> {
        let io = |error| ClientError::io(path, &error);
        let mut file = File::open(path).await.map_err(io)?;
        file.seek(SeekFrom::Start(offset)).await.map_err(io)?;
        let (parts, receiver) = mpsc::channel(4);
        let header = v1::PutHeader { hash: blob.0.to_vec(), bytes, offset };
        let feed = async {
            let part = |part| v1::PutPart { part: Some(part) };
            if parts.send(part(v1::put_part::Part::Header(header))).await.is_err() {
                return Ok(());
            }
            let mut done = offset;
            while done < bytes {
                let mut chunk = vec![0; CHUNK_BYTES_MAX.min((bytes - done) as usize)];
                let read = file.read(&mut chunk).await.map_err(io)?;
                if read == 0 {
                    let message = format!("{}: became shorter while it was read", path.display());
                    return Err(ClientError::new(ErrorCode::Io, message));
                }
                chunk.truncate(read);
                if parts.send(part(v1::put_part::Part::Chunk(chunk))).await.is_err() {
                    break;
                }
                done += read as u64;
                on_progress(done, bytes);
            }
            drop(parts);
            Ok(())
        };
        let mut blobs = self.blobs();
        let (fed, answer) = tokio::join!(feed, blobs.put(ReceiverStream::new(receiver)));
        fed?;
        Ok(match answer {
            Ok(_) => Try::Done,
            Err(status) => Try::Failed(status),
        })
    }
}

/// The first of these files that are small, as many as one request takes.
fn read_small(paths: &[PathBuf]) -> Result<Vec<(BlobHash, Vec<u8>)>, ClientError> {
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        let file = fs::File::open(path)?;
        file.take(SMALL_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let (mut small, mut room) = (Vec::new(), CHUNK_BYTES_MAX);
    for path in paths {
        let bytes = read(path).map_err(|error| ClientError::io(path, &error))?;
        let takes = bytes.len() + SMALL_BYTES_AROUND;
        if bytes.len() > SMALL_BYTES_MAX || takes > room {
            break;
        }
        room -= takes;
        small.push((BlobHash(*blake3::hash(&bytes).as_bytes()), bytes));
    }
    Ok(small)
}

async fn hash_file(path: &Path) -> Result<(BlobHash, u64), ClientError> {
    let path = path.to_owned();
    let hash = move || {
        let mut hasher = blake3::Hasher::new();
        fs::File::open(&path)
            .and_then(|file| hasher.update_reader(file).map(|_| ()))
            .map_err(|error| ClientError::io(&path, &error))?;
        Ok((BlobHash(*hasher.finalize().as_bytes()), hasher.count()))
    };
    blocking(hash).await?
}
