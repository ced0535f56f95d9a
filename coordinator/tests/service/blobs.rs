//! Blobs over the network.

use std::fs;

use fleetune_proto::blob::Outline;
use fleetune_proto::v1::{self, blobs_client::BlobsClient, put_part::Part};
use fleetune_proto::{Client, ErrorCode};
use fleetune_shared::{BlobHash, ByteSize};
use tonic::Code;

use crate::rig::Rig;

fn bytes_and_hash(length: usize) -> (Vec<u8>, BlobHash) {
    let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
    let hash = BlobHash(*blake3::hash(&bytes).as_bytes());
    (bytes, hash)
}

async fn put(
    client: &Client,
    hash: BlobHash,
    declared: usize,
    offset: usize,
    chunks: &[&[u8]],
) -> Result<(), tonic::Status> {
    let header =
        v1::PutHeader { hash: hash.0.to_vec(), bytes: declared as u64, offset: offset as u64 };
    let parts = std::iter::once(Part::Header(header))
        .chain(chunks.iter().map(|chunk| Part::Chunk(chunk.to_vec())))
        .map(|part| v1::PutPart { part: Some(part) })
        .collect::<Vec<_>>();
    BlobsClient::new(client.channel()).put(tokio_stream::iter(parts)).await.map(|_| ())
}

#[tokio::test]
async fn an_upload_cut_in_the_middle_goes_on_after_a_restart() {
    let rig = Rig::start().await;
    let client = rig.client();
    let (bytes, hash) = bytes_and_hash(3_000_000);
    let chunks: Vec<_> = bytes[..2_000_000].chunks(1 << 20).collect();
    let cut = put(&client, hash, bytes.len(), 0, &chunks).await.unwrap_err();
    assert_eq!(cut.code(), Code::OutOfRange);
    assert!(cut.message().contains("continue at 2000000"), "{}", cut.message());

    let rig = rig.restart().await;
    assert_eq!(client.stat(&[hash]).await.unwrap(), [Some(2_000_000)]);
    let fetched = rig.folder.path().join("fetched");
    let early = client.download(hash, ByteSize(3_000_000), &fetched, |_, _| {}).await.unwrap_err();
    assert_eq!(early.code, ErrorCode::NotFound);

    let source = rig.folder.path().join("source");
    fs::write(&source, &bytes).unwrap();
    let mut sent_from = None;
    client
        .upload_file(&source, |done, _| {
            sent_from.get_or_insert(done);
        })
        .await
        .unwrap();
    assert!(sent_from.unwrap() > 2_000_000, "what was there was not sent again");
    client.download(hash, ByteSize(3_000_000), &fetched, |_, _| {}).await.unwrap();
    assert_eq!(fs::read(&fetched).unwrap(), bytes);
    rig.stop().await;
}

#[tokio::test]
async fn bytes_that_are_not_what_they_say_are_refused_by_name() {
    let rig = Rig::start().await;
    let client = rig.client();
    let (bytes, hash) = bytes_and_hash(1000);
    let cases: [(Code, &str, Result<(), tonic::Status>); 5] = [
        (Code::DataLoss, "has hash", put(&client, hash, 1000, 0, &[&bytes[..999], b"!"]).await),
        (Code::OutOfRange, "continue at 0", put(&client, hash, 1000, 10, &[&bytes]).await),
        (Code::OutOfRange, "continue at 0", put(&client, hash, 1000, usize::MAX, &[]).await),
        (Code::InvalidArgument, "were declared", put(&client, hash, 900, 0, &[&bytes]).await),
        (Code::InvalidArgument, "expected at most", {
            put(&client, hash, 2 << 20, 0, &[&vec![0; (1 << 20) + 1]]).await
        }),
    ];
    for (code, part, outcome) in cases {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
    assert_eq!(client.stat(&[hash]).await.unwrap(), [Some(0)]);
    rig.stop().await;
}

#[tokio::test]
async fn small_files_take_one_request_and_are_there_after_a_restart() {
    let rig = Rig::start().await;
    let client = rig.client();
    let paths: Vec<_> = (0..3)
        .map(|length| {
            let path = rig.folder.path().join(format!("small {length}"));
            fs::write(&path, bytes_and_hash(length * 1000).0).unwrap();
            path
        })
        .collect();
    let named = client.upload_next(&paths).await.unwrap();
    let hashes: Vec<_> = named.iter().map(|(hash, _)| *hash).collect();
    assert_eq!(hashes, [0, 1000, 2000].map(|length| bytes_and_hash(length).1));

    let (bytes, hash) = bytes_and_hash(3000);
    let damaged = v1::SmallBlob { hash: hash.0.to_vec(), bytes: bytes[1..].to_vec() };
    let request = v1::PutSmallRequest { blobs: vec![damaged] };
    let refused = BlobsClient::new(client.channel()).put_small(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");

    let rig = rig.restart().await;
    let asked = [&hashes[..], &[hash]].concat();
    assert_eq!(client.stat(&asked).await.unwrap(), [None, None, None, Some(0)]);
    rig.stop().await;
}

#[tokio::test]
async fn a_blob_damaged_on_disk_is_not_served() {
    let rig = Rig::start().await;
    let client = rig.client();
    let (bytes, hash) = bytes_and_hash(2_500_000);
    let chunks: Vec<_> = bytes.chunks(1 << 20).collect();
    put(&client, hash, bytes.len(), 0, &chunks).await.unwrap();
    let name = hash.to_string();
    let path = rig.folder.path().join("blobs").join(&name[..2]).join(&name);
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    fs::write(&path, damaged).unwrap();
    let to = rig.folder.path().join("fetched");
    let error = client.download(hash, ByteSize(2_500_000), &to, |_, _| {}).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Corrupt, "{error}");
    assert!(!to.exists());
    assert_eq!(client.stat(&[hash]).await.unwrap(), [Some(0)], "it can be uploaded again");
    rig.stop().await;
}

#[tokio::test]
async fn a_part_of_a_blob_can_be_held_against_its_name() {
    let rig = Rig::start().await;
    let client = rig.client();
    let (bytes, hash) = bytes_and_hash(2_500_000);
    let chunks: Vec<_> = bytes.chunks(1 << 20).collect();
    put(&client, hash, bytes.len(), 0, &chunks).await.unwrap();
    let mut blobs = BlobsClient::new(client.channel());
    let outline = async |blobs: &mut BlobsClient<_>| {
        let request = v1::OutlineRequest { hash: hash.0.to_vec() };
        let values = blobs.outline(request).await.unwrap().into_inner().values;
        Outline::read(hash, bytes.len() as u64, &values).unwrap()
    };
    let whole = outline(&mut blobs).await;
    let get = v1::GetRequest { hash: hash.0.to_vec(), offset: 1 << 20, length: 1 << 20 };
    let mut stream = blobs.get(get.clone()).await.unwrap().into_inner();
    let chunk = stream.message().await.unwrap().unwrap().bytes;
    assert!(whole.has(1, &chunk) && chunk == bytes[1 << 20..2 << 20]);
    assert_eq!(stream.message().await.unwrap(), None);
    let behind = blobs.get(v1::GetRequest { offset: 2_500_001, ..get }).await.unwrap_err();
    assert_eq!(behind.code(), Code::OutOfRange, "{behind}");

    // A blob of a time without outlines gets one.
    let name = hash.to_string();
    let path = rig.folder.path().join("blobs").join(&name[..2]).join(format!("{name}.outline"));
    fs::remove_file(&path).unwrap();
    assert_eq!(outline(&mut blobs).await, whole);
    assert!(path.exists());
    rig.stop().await;
}
