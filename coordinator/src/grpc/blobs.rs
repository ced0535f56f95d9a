//! Blobs in and out, chunk by chunk. Files are read and written on threads that may block.

use std::sync::Arc;
use std::time::Duration;

use fleetune_proto::blob::{ChunkStream, give, read_hash};
use fleetune_proto::v1::{self, blobs_server, put_part::Part};
use fleetune_shared::BlobHash;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status, Streaming};

use crate::artifacts::Presence;
use crate::coordinator::Coordinator;
use crate::error::Error;

const TRANSFERS_MAX: usize = 128;
const STAT_HASHES_MAX: usize = 10_000;
/// A peer that moves nothing for so long is gone.
const IDLE_MAX: Duration = Duration::from_secs(60);

pub(super) struct Blobs {
    coordinator: Arc<Coordinator>,
    transfers: Arc<Semaphore>,
}

impl Blobs {
    pub(super) fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator, transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)) }
    }

    async fn take(&self, mut parts: Streaming<v1::PutPart>) -> Result<v1::PutReply, Error> {
        let _transfer = self.transfers.try_acquire().map_err(|_| Error::Busy)?;
        self.coordinator.require_disk_space()?;
        let Some(Part::Header(header)) = next(&mut parts).await? else {
            return Err(Error::Invalid("an upload begins with a header".into()));
        };
        let hash = hash(&header.hash)?;
        let store = self.coordinator.blobs.clone();
        let begun = move || store.upload(hash, header.bytes, header.offset);
        let Some(mut upload) = spawn_blocking(begun).await?? else {
            return Ok(v1::PutReply {});
        };
        while let Some(part) = next(&mut parts).await? {
            let Part::Chunk(chunk) = part else {
                return Err(Error::Invalid("a second header within an upload".into()));
            };
            upload = spawn_blocking(move || upload.append(&chunk).map(|()| upload)).await??;
        }
        spawn_blocking(move || upload.finish()).await??;
        tracing::debug!(blob = %hash.short(), bytes = header.bytes, "stored");
        Ok(v1::PutReply {})
    }

    /// A message's own limit bounds how much this is.
    async fn take_small(&self, blobs: Vec<v1::SmallBlob>) -> Result<v1::PutReply, Error> {
        let _transfer = self.transfers.try_acquire().map_err(|_| Error::Busy)?;
        self.coordinator.require_disk_space()?;
        let store = self.coordinator.blobs.clone();
        let put = move || -> Result<(), Error> {
            blobs.iter().try_for_each(|blob| Ok(store.put(hash(&blob.hash)?, &blob.bytes)?))
        };
        spawn_blocking(put).await??;
        Ok(v1::PutReply {})
    }
}

async fn next(parts: &mut Streaming<v1::PutPart>) -> Result<Option<Part>, Error> {
    match tokio::time::timeout(IDLE_MAX, parts.message()).await {
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(part))) => match part.part {
            Some(part) => Ok(Some(part)),
            None => Err(Error::Invalid("a part that is neither header nor chunk".into())),
        },
        Ok(Err(status)) => Err(Error::Invalid(format!("the upload broke off: {status}"))),
        Err(_) => Err(Error::TooSlow(format!("nothing was sent for {} s", IDLE_MAX.as_secs()))),
    }
}

fn hash(bytes: &[u8]) -> Result<BlobHash, Error> {
    read_hash(bytes).map_err(Error::Invalid)
}

#[tonic::async_trait]
impl blobs_server::Blobs for Blobs {
    async fn stat(
        &self,
        request: Request<v1::StatRequest>,
    ) -> Result<Response<v1::StatReply>, Status> {
        let hashes = request.into_inner().hashes;
        if hashes.len() > STAT_HASHES_MAX {
            let found = hashes.len();
            let message = format!("{found} hashes asked for, expected at most {STAT_HASHES_MAX}");
            return Err(Error::TooMuch(message).into());
        }
        let hashes = hashes.iter().map(|h| hash(h)).collect::<Result<Vec<_>, _>>()?;
        let store = self.coordinator.blobs.clone();
        let look = move || hashes.into_iter().map(|h| store.stat(h)).collect::<Result<Vec<_>, _>>();
        let stats = spawn_blocking(look).await.map_err(Error::from)?.map_err(Error::from)?;
        let stats = stats.into_iter().map(|presence| match presence {
            Presence::Whole { bytes } => v1::BlobStat { complete: true, bytes_present: bytes },
            Presence::Partial { bytes } => v1::BlobStat { complete: false, bytes_present: bytes },
            Presence::Absent => v1::BlobStat { complete: false, bytes_present: 0 },
        });
        Ok(Response::new(v1::StatReply { stats: stats.collect() }))
    }

    async fn put(
        &self,
        request: Request<Streaming<v1::PutPart>>,
    ) -> Result<Response<v1::PutReply>, Status> {
        Ok(Response::new(self.take(request.into_inner()).await?))
    }

    async fn put_small(
        &self,
        request: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::PutReply>, Status> {
        Ok(Response::new(self.take_small(request.into_inner().blobs).await?))
    }

    async fn outline(
        &self,
        request: Request<v1::OutlineRequest>,
    ) -> Result<Response<v1::OutlineReply>, Status> {
        let name = hash(&request.into_inner().hash)?;
        let _transfer = self.transfers.try_acquire().map_err(|_| Error::Busy)?;
        let store = self.coordinator.blobs.clone();
        let opened = spawn_blocking(move || store.open_whole(name)).await.map_err(Error::from)?;
        let values = opened.map_err(Error::from)?.outline().to_bytes();
        Ok(Response::new(v1::OutlineReply { values }))
    }

    type GetStream = ChunkStream;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let v1::GetRequest { hash: name, offset, length } = request.into_inner();
        let name = hash(&name)?;
        let transfer = Arc::clone(&self.transfers).try_acquire_owned().map_err(|_| Error::Busy)?;
        let store = self.coordinator.blobs.clone();
        let refused = move |error| -> Status { Error::from(store.unreadable(name, error)).into() };
        let store = self.coordinator.blobs.clone();
        let opened = spawn_blocking(move || store.open_whole(name)).await.map_err(Error::from)?;
        let chunks = match opened.map_err(Error::from)?.chunks(offset, length) {
            Ok(chunks) => chunks,
            Err(error) => return Err(refused(error)),
        };
        Ok(Response::new(give(chunks, transfer, refused)))
    }
}
