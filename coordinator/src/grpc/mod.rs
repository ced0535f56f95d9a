//! What users and agents can ask over the network. Thin: a request becomes words of `shared`, then a command or a look
//! at the state, and the answer becomes a message again.

mod agents;
mod blobs;
mod fleet;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use fleetune_proto::v1::agents_server::AgentsServer;
use fleetune_proto::v1::blobs_server::BlobsServer;
use fleetune_proto::v1::fleet_server::FleetServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::artifacts::CHUNK_BYTES_MAX;
use crate::coordinator::Coordinator;

const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
const REQUESTS_PER_CONNECTION_MAX: usize = 256;
/// A submit of many jobs with their recipes.
const FLEET_REQUEST_BYTES_MAX: usize = 32 << 20;
/// A report that names a checkpoint's files.
const AGENT_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A chunk and what is around it.
const BLOB_MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + (64 << 10);

/// A stream of answers that a task feeds.
type Stream<T> = ReceiverStream<Result<T, Status>>;

/// Answers that may wait for a slow reader before its task waits too.
const ANSWERS_WAITING_MAX: usize = 64;

/// Serves until the coordinator stops and every request is answered.
pub(crate) async fn serve(
    coordinator: Arc<Coordinator>,
    listener: TcpListener,
) -> Result<(), tonic::transport::Error> {
    let stopping = coordinator.stopping.clone();
    Server::builder()
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(
            FleetServer::new(fleet::Fleet::new(Arc::clone(&coordinator)))
                .max_decoding_message_size(FLEET_REQUEST_BYTES_MAX),
        )
        .add_service(
            BlobsServer::new(blobs::Blobs::new(Arc::clone(&coordinator)))
                .max_decoding_message_size(BLOB_MESSAGE_BYTES_MAX),
        )
        .add_service(
            AgentsServer::new(agents::Agents::new(coordinator))
                .max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX),
        )
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move { stopping.cancelled().await },
        )
        .await
}
