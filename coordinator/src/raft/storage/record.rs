//! A value of any size under one key: numbered chunks that fit sled, behind a header with length and checksum.

use super::{KeyValue, Pair, StorageError, VALUE_BYTES_MAX, Write};

const HEADER_BYTES: usize = 8 + 16;

fn header(bytes: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
    header[8..].copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    header
}

fn chunk_key(key: &[u8], number: u32) -> Vec<u8> {
    [key, &number.to_be_bytes()].concat()
}

fn chunks_of(bytes: usize) -> usize {
    (HEADER_BYTES + bytes).div_ceil(VALUE_BYTES_MAX)
}

/// Adds the writes that store `bytes` under `key`. A longer value that stood there before must be removed first.
pub(super) fn put(batch: &mut Vec<Write>, key: &[u8], bytes: &[u8]) {
    let whole = [&header(bytes)[..], bytes].concat();
    for (number, chunk) in (0u32..).zip(whole.chunks(VALUE_BYTES_MAX)) {
        batch.push(Write::Put(chunk_key(key, number), chunk.to_vec()));
    }
}

/// Adds the writes that remove a record of `bytes` bytes.
pub(super) fn remove(batch: &mut Vec<Write>, key: &[u8], bytes: usize) {
    for (number, _) in (0u32..).zip(0..chunks_of(bytes)) {
        batch.push(Write::Delete(chunk_key(key, number)));
    }
}

/// Every record under `prefix`, keys without their chunk number.
pub(super) fn scan(store: &impl KeyValue, prefix: &[u8]) -> Result<Vec<Pair>, StorageError> {
    let mut records: Vec<(Pair, u32)> = Vec::new();
    for (key, chunk) in store.scan(prefix)? {
        let Some((key, number)) = key.split_last_chunk::<4>() else {
            return Err(store.damaged(format!("a key of {} bytes", key.len())));
        };
        let number = u32::from_be_bytes(*number);
        match records.last_mut() {
            Some(((last, bytes), next)) if last == key && *next == number => {
                bytes.extend_from_slice(&chunk);
                *next += 1;
            }
            Some(((last, _), _)) if last == key => {
                return Err(store.damaged(format!("chunk {number} of {} out of order", name(key))));
            }
            _ if number == 0 => records.push(((key.to_vec(), chunk), 1)),
            _ => return Err(store.damaged(format!("{} begins at chunk {number}", name(key)))),
        }
    }
    records
        .into_iter()
        .map(|((key, whole), _)| match whole.split_first_chunk::<HEADER_BYTES>() {
            Some((found, bytes)) if *found == header(bytes) => Ok((key, bytes.to_vec())),
            _ => Err(store.damaged(format!("{} fails its checksum", name(&key)))),
        })
        .collect()
}

/// The one record under `key`.
pub(super) fn get(store: &impl KeyValue, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    Ok(scan(store, key)?.into_iter().find(|(found, _)| found == key).map(|(_, bytes)| bytes))
}

fn name(key: &[u8]) -> String {
    match key.split_first_chunk::<1>() {
        Some((tag, rest)) if rest.len() == 8 => {
            let index = rest.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
            format!("record {}{index}", char::from(tag[0]))
        }
        _ => format!("record `{}`", String::from_utf8_lossy(key)),
    }
}
