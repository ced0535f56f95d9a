//! What front ends and agents call: typed methods over the words of `shared`, retries included.
//!
//! A [`Client`] is cheap to clone and connects when first used. Whatever may be repeated safely is repeated while the
//! coordinator is away for a moment; a submit carries a request id, so that a retry is the same request.

mod blobs;
mod blocking;
mod download;
mod error;
#[cfg(test)]
mod flaky;
mod fleet;
mod patience;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::v1::blobs_client::BlobsClient;
use crate::v1::fleet_client::FleetClient;

pub use download::{Peer, Supply};
pub use error::{ClientError, ErrorCode};
pub use fleet::Outcome;
pub use watch::{LogLine, Logs, Watch, WatchEvent};

/// Largest chunk of a blob in one message.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// An overview of thousands of jobs, recipes included, is large.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A connection to a coordinator.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    address: Arc<str>,
    /// Set once the coordinator has answered: from then on its absence is an interruption worth waiting for.
    answered: Arc<AtomicBool>,
}

impl Client {
    /// Prepares a connection to `address`, such as `http://127.0.0.1:7070` or `gpu-box:7070`; connects when first used.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`] where the address is none.
    pub fn connect(address: &str) -> Result<Self, ClientError> {
        let url =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let invalid = || {
            ClientError::new(
                ErrorCode::Invalid,
                format!("`{address}` is not a coordinator's address"),
            )
            .with_hint("write it as http://HOST:PORT, such as http://127.0.0.1:7070")
        };
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| invalid())?;
        let uri = endpoint.uri();
        if uri.scheme_str() != Some("http") || uri.port().is_none() || uri.host().is_none() {
            return Err(invalid());
        }
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self { channel, address: url.into(), answered: Arc::default() })
    }

    /// The address as a URL.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The connection itself, for services without typed methods here (an agent's session).
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    fn blobs(&self) -> BlobsClient<Channel> {
        BlobsClient::new(self.channel.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7070", "http://gpu-box:7070", "[::1]:7070"] {
            assert!(Client::connect(good).is_ok(), "{good}");
        }
        for bad in ["", "gpu-box", "https://a:1", "http://", "a b:1"] {
            assert_eq!(Client::connect(bad).unwrap_err().code, ErrorCode::Invalid, "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address_and_what_to_do() {
        let error = Client::connect("127.0.0.1:1").unwrap().overview().await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert_eq!(error.message, "no coordinator answers at http://127.0.0.1:1");
        assert!(error.hint.unwrap().contains("fleetune up"));
    }
}
