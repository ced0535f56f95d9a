//! A blob is whole and right, or it is not there.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use fleetune_shared::BlobHash;
use tempfile::TempDir;

use super::{BlobError, BlobStore, CHUNK_BYTES_MAX, Presence};

fn store() -> (TempDir, BlobStore) {
    let folder = TempDir::new().unwrap();
    let store = BlobStore::open(folder.path()).unwrap();
    (folder, store)
}

fn blob(bytes: usize) -> (Vec<u8>, BlobHash) {
    let bytes: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    let hash = BlobHash(*blake3::hash(&bytes).as_bytes());
    (bytes, hash)
}

fn put(store: &BlobStore, bytes: &[u8], hash: BlobHash) -> Result<(), BlobError> {
    let Some(mut upload) = store.upload(hash, bytes.len() as u64, 0)? else { return Ok(()) };
    bytes.chunks(CHUNK_BYTES_MAX).try_for_each(|chunk| upload.append(chunk))?;
    upload.finish()
}

fn get(store: &BlobStore, hash: BlobHash, offset: u64) -> Result<Vec<u8>, BlobError> {
    let unreadable = |error| store.unreadable(hash, error);
    let mut chunks = store.open_whole(hash)?.chunks(offset, 0).map_err(unreadable)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next_chunk().map_err(unreadable)? {
        bytes.extend(chunk);
    }
    Ok(bytes)
}

#[test]
fn a_blob_comes_out_as_it_went_in() {
    let (_folder, store) = store();
    for length in [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX * 2 + 17] {
        let (bytes, hash) = blob(length);
        put(&store, &bytes, hash).unwrap();
        assert_eq!(store.stat(hash).unwrap(), Presence::Whole { bytes: length as u64 });
        assert_eq!(get(&store, hash, 0).unwrap(), bytes);
        assert_eq!(get(&store, hash, length as u64 / 2).unwrap(), bytes[length / 2..]);
        // Once more changes nothing.
        put(&store, &bytes, hash).unwrap();
    }
}

#[test]
fn a_cut_upload_is_continued_and_never_visible_early() {
    let (folder, store) = store();
    let (bytes, hash) = blob(100_000);
    let mut upload = store.upload(hash, 100_000, 0).unwrap().unwrap();
    upload.append(&bytes[..60_000]).unwrap();
    assert!(matches!(store.upload(hash, 100_000, 60_000), Err(BlobError::Contended(_))));
    assert!(matches!(upload.finish(), Err(BlobError::Cut { present: 60_000, .. })));

    // As after a restart.
    let store = BlobStore::open(folder.path()).unwrap();
    assert_eq!(store.stat(hash).unwrap(), Presence::Partial { bytes: 60_000 });
    assert!(matches!(get(&store, hash, 0), Err(BlobError::Missing(_))));
    for wrong in [0, 59_999, 60_001, u64::MAX] {
        let refused = store.upload(hash, 100_000, wrong).unwrap_err();
        assert!(matches!(refused, BlobError::Offset { present: 60_000, .. }), "{refused}");
    }
    let mut upload = store.upload(hash, 100_000, 60_000).unwrap().unwrap();
    upload.append(&bytes[60_000..]).unwrap();
    upload.finish().unwrap();
    assert_eq!(get(&store, hash, 0).unwrap(), bytes);
    assert!(fs::read_dir(folder.path().join("partial")).unwrap().next().is_none());
}

#[test]
fn a_small_blob_comes_whole_and_over_what_a_cut_upload_left() {
    let (folder, store) = store();
    let (bytes, hash) = blob(5_000);
    let mut upload = store.upload(hash, 5_000, 0).unwrap().unwrap();
    upload.append(&bytes[..3_000]).unwrap();
    assert!(matches!(store.put(hash, &bytes), Err(BlobError::Contended(_))));
    drop(upload);
    assert!(matches!(store.put(hash, &bytes[1..]), Err(BlobError::Mismatch { .. })));
    assert_eq!(store.stat(hash).unwrap(), Presence::Partial { bytes: 3_000 });
    // Once more changes nothing.
    for _ in 0..2 {
        store.put(hash, &bytes).unwrap();
        assert_eq!(get(&store, hash, 0).unwrap(), bytes);
    }
    assert!(fs::read_dir(folder.path().join("partial")).unwrap().next().is_none());
}

#[test]
fn what_is_not_what_it_says_is_thrown_away() {
    let (_folder, store) = store();
    let (bytes, hash) = blob(5_000);
    let mut other = bytes.clone();
    other[2_500] ^= 1;
    assert!(matches!(put(&store, &other, hash), Err(BlobError::Mismatch { .. })));
    assert_eq!(store.stat(hash).unwrap(), Presence::Absent);

    let mut upload = store.upload(hash, 4_999, 0).unwrap().unwrap();
    assert!(matches!(upload.append(&bytes), Err(BlobError::Length { sent: 5_000, .. })));
    let big = vec![0; CHUNK_BYTES_MAX + 1];
    assert!(matches!(upload.append(&big), Err(BlobError::Chunk(_))));
    drop(upload);
    put(&store, &bytes, hash).unwrap();
    assert!(matches!(store.upload(hash, 4_999, 0), Err(BlobError::Length { .. })));
}

#[test]
fn a_blob_damaged_at_rest_is_not_served_and_can_be_replaced() {
    let (folder, store) = store();
    let (bytes, hash) = blob(3 * CHUNK_BYTES_MAX);
    put(&store, &bytes, hash).unwrap();
    let mut damaged = bytes.clone();
    damaged[7] ^= 1;
    fs::write(store.whole_path(hash), &damaged).unwrap();

    // What is right of it may still be given.
    let after = CHUNK_BYTES_MAX as u64;
    assert!(get(&store, hash, after).unwrap() == bytes[CHUNK_BYTES_MAX..]);
    assert!(matches!(get(&store, hash, 0), Err(BlobError::Damaged(_))));
    assert!(matches!(get(&store, hash, after), Err(BlobError::Missing(_))));
    assert!(folder.path().join("quarantine").join(hash.to_string()).exists());
    put(&store, &bytes, hash).unwrap();
    assert_eq!(get(&store, hash, 0).unwrap(), bytes);
}

#[test]
fn a_sweep_keeps_what_is_named_and_what_is_young() {
    let (_folder, store) = store();
    let old = SystemTime::now() - Duration::from_secs(3600);
    let hashes: Vec<_> = (1..=4)
        .map(|length| {
            let (bytes, hash) = blob(length);
            put(&store, &bytes, hash).unwrap();
            let file = fs::File::options().append(true).open(store.whole_path(hash)).unwrap();
            file.set_modified(old).unwrap();
            hash
        })
        .collect();
    // Asked for just now: someone is about to use it.
    store.stat(hashes[1]).unwrap();
    let kept = HashSet::from([hashes[0]]);
    assert_eq!(store.sweep(&kept, Duration::from_secs(600)).unwrap(), 2);
    let here: Vec<_> = hashes.iter().map(|h| store.whole_path(*h).exists()).collect();
    assert_eq!(here, [true, true, false, false]);

    // A large one takes its outline with it.
    let (bytes, hash) = blob(CHUNK_BYTES_MAX + 1);
    put(&store, &bytes, hash).unwrap();
    let shard = store.whole_path(hash).parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(&shard).unwrap().count(), 2);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(store.sweep(&kept, Duration::from_millis(1)).unwrap(), 2);
    assert_eq!(fs::read_dir(&shard).unwrap().count(), 0);
}
