//! A store of blobs whose connections break, and what the client makes of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fleetune_shared::{BlobHash, ByteSize};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Client, ErrorCode};
use crate::blob::OutlineHasher;
use crate::v1;
use crate::v1::blobs_server::{Blobs, BlobsServer};

/// Every connection moves at most this many bytes of a blob, then breaks.
const BREAKS_AFTER: usize = 3 << 20;

#[derive(Clone, Default)]
struct Flaky {
    blobs: Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>,
    /// Bytes received over all connections: a client that begins anew sends more than the blob has.
    received: Arc<Mutex<usize>>,
    /// Requests with small blobs.
    requests: Arc<Mutex<usize>>,
    /// Whether the next of them meets another one with the same blob.
    contended: Arc<Mutex<bool>>,
}

#[tonic::async_trait]
impl Blobs for Flaky {
    async fn stat(
        &self,
        request: Request<v1::StatRequest>,
    ) -> Result<Response<v1::StatReply>, Status> {
        let blobs = self.blobs.lock().unwrap();
        let stat = |hash: &Vec<u8>| {
            let bytes = blobs.get(hash).map_or(&[][..], Vec::as_slice);
            let complete = blake3::hash(bytes).as_bytes().as_slice() == hash;
            v1::BlobStat { complete, bytes_present: bytes.len() as u64 }
        };
        let stats = request.get_ref().hashes.iter().map(stat).collect();
        Ok(Response::new(v1::StatReply { stats }))
    }

    async fn put(
        &self,
        request: Request<Streaming<v1::PutPart>>,
    ) -> Result<Response<v1::PutReply>, Status> {
        let mut parts = request.into_inner();
        let Some(v1::put_part::Part::Header(header)) = parts.message().await?.unwrap().part else {
            return Err(Status::invalid_argument("no header"));
        };
        let mut moved = 0;
        while let Some(part) = parts.message().await? {
            let Some(v1::put_part::Part::Chunk(chunk)) = part.part else { panic!() };
            moved += chunk.len();
            *self.received.lock().unwrap() += chunk.len();
            self.blobs.lock().unwrap().entry(header.hash.clone()).or_default().extend(chunk);
            if moved >= BREAKS_AFTER {
                return Err(Status::unavailable("the connection broke"));
            }
        }
        Ok(Response::new(v1::PutReply {}))
    }

    async fn put_small(
        &self,
        request: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::PutReply>, Status> {
        // Of two who send the same, one is turned away.
        let first = std::mem::replace(&mut *self.contended.lock().unwrap(), false);
        if first {
            return Err(Status::aborted("another request"));
        }
        for blob in request.into_inner().blobs {
            *self.received.lock().unwrap() += blob.bytes.len();
            self.blobs.lock().unwrap().insert(blob.hash, blob.bytes);
        }
        *self.requests.lock().unwrap() += 1;
        Ok(Response::new(v1::PutReply {}))
    }

    async fn outline(
        &self,
        request: Request<v1::OutlineRequest>,
    ) -> Result<Response<v1::OutlineReply>, Status> {
        let blobs = self.blobs.lock().unwrap();
        let bytes = blobs.get(&request.get_ref().hash).ok_or_else(|| Status::not_found("no"))?;
        let mut hasher = OutlineHasher::default();
        hasher.update(bytes);
        Ok(Response::new(v1::OutlineReply { values: hasher.finish().to_bytes() }))
    }

    type GetStream = ReceiverStream<Result<v1::Chunk, Status>>;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let v1::GetRequest { hash, offset, length } = request.into_inner();
        let Some(bytes) = self.blobs.lock().unwrap().get(&hash).cloned() else {
            return Err(Status::not_found("no such blob"));
        };
        assert_eq!(offset + length, bytes.len() as u64, "all that is left, in one go");
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let mut moved = 0;
            for chunk in bytes[offset as usize..].chunks(1 << 20) {
                let _ = sender.send(Ok(v1::Chunk { bytes: chunk.to_vec() })).await;
                moved += chunk.len();
                if moved >= BREAKS_AFTER {
                    let _ = sender.send(Err(Status::unavailable("the connection broke"))).await;
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn served() -> (Flaky, Client) {
    let store = Flaky::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = BlobsServer::new(store.clone());
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
    );
    (store, Client::connect(&address).unwrap())
}

/// Ten MiB that are not the same everywhere.
fn bytes() -> Vec<u8> {
    (0..10_u32 << 20).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn what_was_cut_is_continued_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let (store, client) = served().await;
    let bytes = bytes();
    let path = write(folder.path(), "up", &bytes);
    let mut told = 0;
    let (blob, size) = client.upload_file(&path, |done, _| told = done).await.unwrap();
    assert_eq!((told, size), (bytes.len() as u64, ByteSize(bytes.len() as u64)));
    assert_eq!(*store.received.lock().unwrap(), bytes.len(), "nothing is sent twice");

    let down = folder.path().join("deep/down");
    client.download(blob, size, &down, |_, _| {}).await.unwrap();
    assert!(std::fs::read(&down).unwrap() == bytes);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("deep")).unwrap().collect();
    assert_eq!(left.len(), 1, "no partial file stays: {left:?}");
}

#[tokio::test]
async fn a_blob_that_is_there_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, client) = served().await;
    let path = write(folder.path(), "up", b"small");
    client.upload_file(&path, |_, _| {}).await.unwrap();
    client.upload_file(&path, |_, _| {}).await.unwrap();
    assert_eq!(*store.received.lock().unwrap(), 5);
    let empty = write(folder.path(), "empty", b"");
    let (blob, size) = client.upload_file(&empty, |_, _| {}).await.unwrap();
    assert_eq!(size, ByteSize(0));
    assert_eq!(blob, BlobHash(*blake3::hash(b"").as_bytes()));
}

#[tokio::test]
async fn small_files_travel_together_and_large_ones_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, client) = served().await;
    *store.contended.lock().unwrap() = true;
    let large = bytes();
    let mut sent: Vec<(String, Vec<u8>)> =
        (0..40).map(|i| (format!("small {i}"), vec![i; 60 << 10])).collect();
    sent.insert(7, ("large".into(), large.clone()));
    sent.push(("empty".into(), Vec::new()));
    let paths: Vec<_> =
        sent.iter().map(|(name, bytes)| write(folder.path(), name, bytes)).collect();
    let mut named = Vec::new();
    while named.len() < paths.len() {
        named.extend(client.upload_next(&paths[named.len()..]).await.unwrap());
    }
    let hashed: Vec<_> = sent
        .iter()
        .map(|(_, bytes)| (BlobHash(*blake3::hash(bytes).as_bytes()), ByteSize(bytes.len() as u64)))
        .collect();
    assert_eq!(named, hashed);
    let stored = store.blobs.lock().unwrap().clone();
    assert!(sent.iter().zip(&named).all(|((_, bytes), (blob, _))| stored[&blob.0[..]] == *bytes));
    // Seven before the large one, and 1.9 MiB after it, a MiB at a time.
    assert_eq!(*store.requests.lock().unwrap(), 3);
    let sum: usize = sent.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(*store.received.lock().unwrap(), sum);

    assert_eq!(client.upload_next(&[]).await.unwrap(), []);
    let lacking = [folder.path().join("small 1"), folder.path().join("none")];
    assert_eq!(client.upload_next(&lacking).await.unwrap_err().code, ErrorCode::Io);
}

#[tokio::test]
async fn bytes_that_do_not_match_their_hash_never_appear() {
    let folder = tempfile::tempdir().unwrap();
    let (store, client) = served().await;
    let blob = BlobHash(*blake3::hash(b"right").as_bytes());
    store.blobs.lock().unwrap().insert(blob.0.to_vec(), b"wrong".to_vec());
    let path = folder.path().join("file");
    let error = client.download(blob, ByteSize(5), &path, |_, _| {}).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Corrupt);
    assert!(error.message.contains(&blob.short()), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let other = BlobHash([7; 32]);
    let error = client.download(other, ByteSize(5), &path, |_, _| {}).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
}
