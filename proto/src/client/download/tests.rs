//! A coordinator and its agents, honest or not, and what a download makes of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleetune_shared::{BlobHash, ByteSize};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Peer, Supply, partial};
use crate::blob::{Outline, OutlineHasher};
use crate::client::{Client, ClientError, ErrorCode};
use crate::v1;
use crate::v1::blobs_server::{Blobs, BlobsServer};

const MIB: usize = 1 << 20;
const CHUNKS: u64 = 21;

/// How somebody behaves who has the blob, or had it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Manner {
    #[default]
    Honest,
    /// One byte of this chunk is not what it was.
    Flips(u64),
    /// The outline is another blob's.
    LiesInOutline,
    /// The connection breaks after so many chunks.
    Vanishes(u64),
    /// Nothing comes after so many chunks.
    Stalls(u64),
    /// It made room for something else after it was recommended.
    Evicted,
    /// Others are served first, so many times.
    Busy(u32),
    /// More comes than was asked for.
    Overflows,
    /// It answers nothing.
    Away,
}

#[derive(Clone, Default)]
struct Holder {
    manner: Arc<Mutex<Manner>>,
    blob: Arc<Vec<u8>>,
    /// Chunks asked for, as often as they were.
    asked: Arc<Mutex<Vec<u64>>>,
}

impl Holder {
    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl Blobs for Holder {
    async fn stat(&self, _: Request<v1::StatRequest>) -> Result<Response<v1::StatReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn put(
        &self,
        _: Request<Streaming<v1::PutPart>>,
    ) -> Result<Response<v1::PutReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn put_small(
        &self,
        _: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::PutReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn outline(
        &self,
        _: Request<v1::OutlineRequest>,
    ) -> Result<Response<v1::OutlineReply>, Status> {
        let mut values = outline(&self.blob).to_bytes();
        match *self.manner.lock().unwrap() {
            Manner::Away => return Err(Status::unavailable("being restarted")),
            Manner::Evicted => return Err(Status::not_found("no such blob")),
            Manner::LiesInOutline => values[40] ^= 1,
            _ => {}
        }
        Ok(Response::new(v1::OutlineReply { values }))
    }

    type GetStream = ReceiverStream<Result<v1::Chunk, Status>>;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let manner = {
            let mut manner = self.manner.lock().unwrap();
            match *manner {
                Manner::Away => return Err(Status::unavailable("being restarted")),
                Manner::Evicted => return Err(Status::not_found("no such blob")),
                Manner::Busy(0) => *manner = Manner::Honest,
                Manner::Busy(times) => {
                    *manner = Manner::Busy(times - 1);
                    return Err(Status::resource_exhausted("others are served"));
                }
                _ => {}
            }
            *manner
        };
        let v1::GetRequest { offset, length, .. } = request.into_inner();
        let end = self.blob.len().min((offset + length) as usize);
        let bytes = self.blob[offset as usize..end].to_vec();
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let first = offset / MIB as u64;
        self.asked.lock().unwrap().extend(first..(end.div_ceil(MIB)) as u64);
        tokio::spawn(async move {
            for (chunk, bytes) in (first..).zip(bytes.chunks(MIB)) {
                let (sent, mut bytes) = (chunk - first, bytes.to_vec());
                match manner {
                    Manner::Flips(wrong) if wrong == chunk => bytes[77] ^= 1,
                    Manner::Vanishes(after) if after == sent => {
                        let _ = sender.send(Err(Status::unavailable("gone"))).await;
                        return;
                    }
                    Manner::Stalls(after) if after == sent => {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                    }
                    Manner::Overflows => bytes.push(0),
                    _ => {}
                }
                // Not every server sends whole chunks.
                let rest = bytes.split_off(bytes.len() / 3);
                for bytes in [bytes, rest] {
                    if sender.send(Ok(v1::Chunk { bytes })).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn outline(bytes: &[u8]) -> Outline {
    let mut hasher = OutlineHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// A fleet of holders of one blob: the first is the coordinator.
struct Story {
    folder: tempfile::TempDir,
    blob: Arc<Vec<u8>>,
    coordinator: Holder,
    client: Client,
    holders: Vec<Holder>,
    supply: Supply,
}

impl Story {
    async fn with(coordinator: Manner, peers: &[Manner]) -> Self {
        let length = CHUNKS as usize * MIB - 1000;
        let blob: Arc<Vec<u8>> =
            Arc::new((0..length).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect());
        let (coordinator, address) = serve(&blob, coordinator).await;
        let mut story = Self {
            folder: tempfile::tempdir().unwrap(),
            blob,
            coordinator,
            client: Client::connect(&address).unwrap(),
            holders: Vec::new(),
            supply: Supply::default(),
        };
        for (name, manner) in ["one", "two", "three"].iter().zip(peers) {
            let (holder, address) = serve(&story.blob, *manner).await;
            story.holders.push(holder);
            story.recommend(name, &address);
        }
        story
    }

    fn recommend(&mut self, name: &str, address: &str) {
        self.supply.peers.push(Peer { name: name.into(), address: address.into() });
    }

    fn name(&self) -> BlobHash {
        outline(&self.blob).blob()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    async fn try_download(&mut self) -> Result<Outline, ClientError> {
        let (name, path) = (self.name(), self.path());
        let bytes = ByteSize(self.blob.len() as u64);
        self.client.download_from(&mut self.supply, name, bytes, &path, |_, _| {}).await
    }

    /// The blob arrives, and nothing else stays.
    async fn arrives(&mut self) -> String {
        assert_eq!(self.try_download().await.unwrap(), outline(&self.blob));
        assert!(std::fs::read(self.path()).unwrap() == *self.blob);
        assert_eq!(count(self.folder.path()), 1);
        self.supply.to_string()
    }

    /// What was wrong with whom, the address left out.
    fn failures(&self) -> Vec<String> {
        let short = |text: &String| {
            let (who, why) = text.split_once(" at ").unwrap();
            format!("{who}: {}", why.split_once(": ").unwrap().1)
        };
        self.supply.failures.iter().map(short).collect()
    }
}

async fn serve(blob: &Arc<Vec<u8>>, manner: Manner) -> (Holder, String) {
    let holder = Holder {
        manner: Arc::new(Mutex::new(manner)),
        blob: Arc::clone(blob),
        asked: Arc::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = BlobsServer::new(holder.clone());
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
    );
    (holder, address)
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn all() -> BTreeSet<u64> {
    (0..CHUNKS).collect()
}

#[tokio::test]
async fn peers_share_the_work_and_the_coordinator_has_none() {
    let mut story = Story::with(Manner::Honest, &[Manner::Honest, Manner::Honest]).await;
    let whence = story.arrives().await;
    assert!(whence.contains("from agent one") && whence.contains("from agent two"), "{whence}");
    assert!(!whence.contains("coordinator"), "{whence}");
    let (one, two) = (story.holders[0].asked(), story.holders[1].asked());
    let both: Vec<u64> = [&one[..], &two[..]].concat();
    assert_eq!(both.len() as u64, CHUNKS, "nothing twice");
    assert_eq!(both.into_iter().collect::<BTreeSet<_>>(), all());
    assert_eq!(story.coordinator.asked(), [0; 0]);
    assert_eq!(story.failures(), [""; 0]);
}

#[tokio::test]
async fn a_peer_that_lies_costs_one_chunk_and_is_not_asked_again() {
    let mut story = Story::with(Manner::Honest, &[Manner::Flips(3)]).await;
    let whence = story.arrives().await;
    assert_eq!(whence, "3.0 MiB from agent one, 18.0 MiB from the coordinator");
    let short = story.name().short();
    let lie = format!("agent one: it sent a damaged chunk, 4 of 21, of blob {short}");
    assert_eq!(story.failures(), [lie]);
    assert_eq!(story.holders[0].asked(), (0..8).collect::<Vec<_>>());
    assert_eq!(story.coordinator.asked(), (3..CHUNKS).collect::<Vec<_>>());
    assert!(story.supply.peers.is_empty());
}

#[tokio::test]
async fn what_one_peer_leaves_another_brings() {
    let bad = [Manner::Vanishes(2), Manner::Stalls(1), Manner::Evicted, Manner::Overflows];
    let because = [
        "gone",
        "it sent no whole chunk within 2 s",
        "it does not have the blob any more",
        "it sent a damaged chunk",
    ];
    for (manner, why) in bad.into_iter().zip(because) {
        let mut story = Story::with(Manner::Honest, &[manner, Manner::Honest]).await;
        let whence = story.arrives().await;
        assert!(whence.contains("from agent two"), "{whence}");
        assert_eq!(story.coordinator.asked(), [0; 0], "{manner:?}");
        let failures = story.failures();
        assert!(failures[0].starts_with(&format!("agent one: {why}")), "{failures:?}");
        assert_eq!((failures.len(), story.supply.peers.len()), (1, 1), "{manner:?}");
    }
}

#[tokio::test]
async fn peers_that_cannot_be_reached_leave_all_to_the_coordinator() {
    let mut story = Story::with(Manner::Honest, &[]).await;
    story.recommend("closed", "127.0.0.1:1");
    story.recommend("nonsense", "no such place");
    assert_eq!(story.arrives().await, "21.0 MiB from the coordinator");
    let failures = story.failures().join("\n");
    assert!(failures.contains("agent closed: nobody answers"), "{failures}");
    assert!(failures.contains("agent nonsense: `no such place` is not"), "{failures}");
}

#[tokio::test]
async fn a_busy_peer_is_asked_again() {
    let mut story = Story::with(Manner::Honest, &[Manner::Busy(3)]).await;
    assert_eq!(story.arrives().await, "21.0 MiB from agent one");
    assert_eq!(story.failures(), [""; 0]);
}

#[tokio::test]
async fn peers_have_outlines_too_and_a_false_one_is_refused() {
    let mut story = Story::with(Manner::Away, &[Manner::LiesInOutline, Manner::Honest]).await;
    assert_eq!(story.arrives().await, "21.0 MiB from agent two");
    let failures = story.failures();
    let short = story.name().short();
    let lie = format!("agent one: it sent blob {short} with an outline that comes to ");
    assert!(failures[0].starts_with(&lie), "{failures:?}");
    assert_eq!(story.holders[0].asked(), [0; 0]);
}

#[tokio::test]
async fn a_false_outline_of_the_coordinators_is_an_error_and_leaves_nothing() {
    let mut story = Story::with(Manner::LiesInOutline, &[]).await;
    let error = story.try_download().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Corrupt, "{error}");
    let mut story = Story::with(Manner::Flips(20), &[]).await;
    let error = story.try_download().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Corrupt, "{error}");
    assert!(error.message.contains("a damaged chunk, 21 of 21"), "{error}");
    assert_eq!(count(story.folder.path()), 0);
}

#[tokio::test]
async fn a_partial_file_is_continued_from_what_is_right_in_it() {
    let mut story = Story::with(Manner::Honest, &[Manner::Honest]).await;
    let partial = partial(&story.path(), story.name());
    let mut rest = story.blob[..12 * MIB].to_vec();
    rest[5 * MIB] ^= 1;
    rest.truncate(11 * MIB + 9);
    std::fs::write(&partial, rest).unwrap();
    assert_eq!(story.arrives().await, "11.0 MiB from agent one, 10.0 MiB were here");
    let lacked: Vec<u64> = [5].into_iter().chain(11..CHUNKS).collect();
    assert_eq!(story.holders[0].asked(), lacked);
}

#[tokio::test]
async fn what_came_before_the_coordinator_went_away_is_kept_for_the_next_try() {
    let mut story = Story::with(Manner::Away, &[Manner::Vanishes(6)]).await;
    let error = story.try_download().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    *story.coordinator.manner.lock().unwrap() = Manner::Honest;
    assert_eq!(story.arrives().await, "6.0 MiB from agent one, 15.0 MiB from the coordinator");
    assert_eq!(story.coordinator.asked(), (6..CHUNKS).collect::<Vec<_>>());
    assert_eq!(story.failures(), ["agent one: gone"], "it is not asked again");
}
