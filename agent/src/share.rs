//! Hands what the cache holds to other agents, where its owner said so.
//!
//! ```text
//!   other agents ── Stat, Outline, Get ──▶ share ── by hash ──▶ cache
//! ```
//!
//! Whoever asks must know a blob's hash; nothing is found by a path or listed. Every chunk is held against that hash before
//! it leaves. It is no use of the card, so it goes on while the card's owner has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fleetune_proto::blob::{ChunkStream, StoredBlob, StoredError, give, read_hash};
use fleetune_proto::v1;
use fleetune_proto::v1::blobs_server::{Blobs, BlobsServer};
use fleetune_shared::BlobHash;
use tokio::net::{TcpListener, UdpSocket, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info, warn};

use crate::AgentError;
use crate::cache::Cache;
use crate::settings::ShareSettings;

/// Transfers at once; whoever comes then asks again in a moment. A desk's network is not a server's.
const TRANSFERS_MAX: usize = 8;
const STAT_HASHES_MAX: usize = 1000;
const STREAMS_PER_CONNECTION_MAX: u32 = 64;

/// Serves until it is dropped.
pub(crate) struct Share {
    address: String,
    _server: AbortOnDropHandle<()>,
}

impl Share {
    /// Listens as the owner said. `coordinator` is the URL it is joined at.
    pub(crate) async fn open(
        settings: &ShareSettings,
        coordinator: &str,
        cache: Arc<Cache>,
    ) -> Result<Self, AgentError> {
        let address = settings.listen;
        let fail = |source| AgentError::Share { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        let address = match &settings.dialled {
            Some(address) => address.clone(),
            None => dialled(bound, coordinator).await.map_err(AgentError::ShareAs)?,
        };
        if !bound.ip().is_loopback() {
            warn!("whoever reaches {bound} and knows a blob's hash can fetch it from the cache");
        }
        info!("models and data are shared at {address}");
        let service = Counter { cache, transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)) };
        let serving = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_service(BlobsServer::new(service))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let server = tokio::spawn(async move {
            // Jobs go on without it.
            if let Err(error) = serving.await {
                error!("sharing has ended: {error}");
            }
        });
        Ok(Self { address, _server: AbortOnDropHandle::new(server) })
    }

    /// What others dial.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

/// What others are to dial: what it listens on, or, where that is any address of this machine, the one from which it
/// reaches the coordinator.
async fn dialled(bound: SocketAddr, coordinator: &str) -> std::io::Result<String> {
    if !bound.ip().is_unspecified() {
        return Ok(bound.to_string());
    }
    let host = coordinator.trim_start_matches("http://").trim_end_matches('/');
    let there = lookup_host(host).await?.next();
    let there = there.ok_or_else(|| std::io::Error::other(format!("{host} has no address")))?;
    let any: IpAddr = match there {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Sends nothing: it has the system choose the way.
    let way = UdpSocket::bind((any, 0)).await?;
    way.connect(there).await?;
    Ok(SocketAddr::new(way.local_addr()?.ip(), bound.port()).to_string())
}

/// Where others are served.
struct Counter {
    cache: Arc<Cache>,
    transfers: Arc<Semaphore>,
}

fn busy<E>(_: E) -> Status {
    Status::resource_exhausted("it serves others, ask again in a moment")
}

fn no_uploads() -> Status {
    Status::permission_denied("an agent takes no uploads; send it to the coordinator")
}

fn hash(bytes: &[u8]) -> Result<BlobHash, Status> {
    read_hash(bytes).map_err(Status::invalid_argument)
}

/// What whoever asked is told; a blob that is damaged is kept no longer.
fn refused(cache: &Cache, blob: BlobHash, error: &StoredError) -> Status {
    let message = format!("blob {}: {error}", blob.short());
    match error {
        StoredError::Missing => Status::not_found(message),
        StoredError::Offset(_) => Status::out_of_range(message),
        StoredError::Damaged => {
            cache.drop_damaged(blob);
            Status::data_loss(message)
        }
        StoredError::Io { .. } => {
            warn!("{message}");
            Status::internal(message)
        }
    }
}

impl Counter {
    async fn open(&self, blob: BlobHash) -> Result<StoredBlob, Status> {
        let cache = Arc::clone(&self.cache);
        let open = move || cache.open(blob).map_err(|error| refused(&cache, blob, &error));
        spawn_blocking(open).await.map_err(|error| Status::internal(error.to_string()))?
    }
}

#[tonic::async_trait]
impl Blobs for Counter {
    async fn stat(
        &self,
        request: Request<v1::StatRequest>,
    ) -> Result<Response<v1::StatReply>, Status> {
        let hashes = request.into_inner().hashes;
        if hashes.len() > STAT_HASHES_MAX {
            let found = hashes.len();
            let message = format!("{found} hashes asked for, expected at most {STAT_HASHES_MAX}");
            return Err(Status::resource_exhausted(message));
        }
        let stat = |name: &Vec<u8>| -> Result<v1::BlobStat, Status> {
            let bytes = self.cache.bytes_of(hash(name)?);
            Ok(v1::BlobStat { complete: bytes.is_some(), bytes_present: bytes.unwrap_or(0) })
        };
        let stats = hashes.iter().map(stat).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::StatReply { stats }))
    }

    async fn put(
        &self,
        _: Request<Streaming<v1::PutPart>>,
    ) -> Result<Response<v1::PutReply>, Status> {
        Err(no_uploads())
    }

    async fn put_small(
        &self,
        _: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::PutReply>, Status> {
        Err(no_uploads())
    }

    async fn outline(
        &self,
        request: Request<v1::OutlineRequest>,
    ) -> Result<Response<v1::OutlineReply>, Status> {
        let blob = hash(&request.into_inner().hash)?;
        let _transfer = self.transfers.try_acquire().map_err(busy)?;
        let values = self.open(blob).await?.outline().to_bytes();
        Ok(Response::new(v1::OutlineReply { values }))
    }

    type GetStream = ChunkStream;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let v1::GetRequest { hash: name, offset, length } = request.into_inner();
        let blob = hash(&name)?;
        let transfer = Arc::clone(&self.transfers).try_acquire_owned().map_err(busy)?;
        let opened = self.open(blob).await?.chunks(offset, length);
        let cache = Arc::clone(&self.cache);
        let chunks = opened.map_err(|error| refused(&cache, blob, &error))?;
        Ok(Response::new(give(chunks, transfer, move |error| refused(&cache, blob, &error))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_are_told_an_address_that_they_can_dial() {
        let told = async |bound: &str, coordinator: &str| {
            dialled(bound.parse().unwrap(), coordinator).await
        };
        let own = told("192.168.1.5:7071", "http://10.0.0.1:7070").await.unwrap();
        assert_eq!(own, "192.168.1.5:7071");
        let any = told("0.0.0.0:7071", "http://127.0.0.1:7070").await.unwrap();
        assert_eq!(any, "127.0.0.1:7071");
        assert!(told("0.0.0.0:7071", "http://no.such.host.invalid:7070").await.is_err());
    }
}
