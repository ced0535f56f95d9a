//! What every chunk of a blob has to hash to for the blob to have its name.
//!
//! BLAKE3 is a tree: a full MiB is a whole subtree of it, and so is what is left at the end. An outline is the values of
//! these subtrees, 32 bytes for each MiB. Merged up they come to the blob's name, or the outline is not this blob's.
//! A blob of at most one chunk needs none: its name is the chunk's own hash.

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use fleetune_shared::BlobHash;
use std::ops::Range;
use thiserror::Error;

/// Bytes of every chunk but the last. A power of two times BLAKE3's own 1024, or it would be no subtree.
pub const CHUNK_BYTES: u64 = 1 << 20;

const VALUE_BYTES: usize = size_of::<ChainingValue>();

/// Why values are not a blob's outline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OutlineError {
    /// Too few or too many.
    #[error("an outline of {found} bytes, expected {expected}")]
    Length {
        /// What came.
        found: usize,
        /// What a blob of this size has.
        expected: u64,
    },
    /// Some other blob's, or nobody's.
    #[error("an outline that comes to {}, expected {}", found.short(), expected.short())]
    Name {
        /// What its values come to.
        found: BlobHash,
        /// The blob.
        expected: BlobHash,
    },
}

/// What each chunk of a blob hashes to; known to come to the blob's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    blob: BlobHash,
    bytes: u64,
    /// Empty for a blob of one chunk.
    values: Vec<ChainingValue>,
}

impl Outline {
    /// Of a blob of `bytes` bytes, from what [`Outline::to_bytes`] made of it elsewhere.
    ///
    /// # Errors
    /// When the values are not this blob's.
    pub fn read(blob: BlobHash, bytes: u64, values: &[u8]) -> Result<Self, OutlineError> {
        let expected = Self::bytes_of(bytes);
        if values.len() as u64 != expected {
            return Err(OutlineError::Length { found: values.len(), expected });
        }
        let values: Vec<ChainingValue> = values.as_chunks::<VALUE_BYTES>().0.to_vec();
        match root(&values) {
            Some(found) if found != blob => Err(OutlineError::Name { found, expected: blob }),
            _ => Ok(Self { blob, bytes, values }),
        }
    }

    /// Bytes of the outline of a blob of `bytes` bytes.
    #[must_use]
    pub fn bytes_of(bytes: u64) -> u64 {
        match bytes.div_ceil(CHUNK_BYTES) {
            0 | 1 => 0,
            chunks => chunks * VALUE_BYTES as u64,
        }
    }

    /// The values one after the other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.concat()
    }

    /// The blob's name.
    #[must_use]
    pub fn blob(&self) -> BlobHash {
        self.blob
    }

    /// The blob's length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many chunks there are; an empty blob is one empty chunk.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.bytes.div_ceil(CHUNK_BYTES).max(1)
    }

    /// Where these chunks lie in the blob.
    #[must_use]
    pub fn place(&self, chunks: Range<u64>) -> Range<u64> {
        let at = |chunk: u64| (chunk * CHUNK_BYTES).min(self.bytes);
        at(chunks.start)..at(chunks.end)
    }

    /// Whether `bytes` are that chunk of the blob.
    #[must_use]
    pub fn has(&self, chunk: u64, bytes: &[u8]) -> bool {
        let place = self.place(chunk..chunk + 1);
        if chunk >= self.chunks() || bytes.len() as u64 != place.end - place.start {
            return false;
        }
        if self.values.is_empty() {
            return self.blob.0 == *blake3::hash(bytes).as_bytes();
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(place.start).update(bytes);
        usize::try_from(chunk).is_ok_and(|i| self.values[i] == hasher.finalize_non_root())
    }
}

/// Makes a blob's outline, and so its name, while its bytes go by.
#[derive(Debug)]
pub struct OutlineHasher {
    /// Of the chunks before this one.
    values: Vec<ChainingValue>,
    chunk: Hasher,
}

impl Default for OutlineHasher {
    fn default() -> Self {
        Self { values: Vec::new(), chunk: Hasher::new() }
    }
}

impl OutlineHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.chunk.count() == CHUNK_BYTES {
                self.values.push(self.chunk.finalize_non_root());
                self.chunk = Hasher::new();
                self.chunk.set_input_offset(self.values.len() as u64 * CHUNK_BYTES);
            }
            let room = (CHUNK_BYTES - self.chunk.count()) as usize;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.chunk.update(now);
            bytes = rest;
        }
    }

    /// The outline of what went by.
    #[must_use]
    pub fn finish(mut self) -> Outline {
        let bytes = self.values.len() as u64 * CHUNK_BYTES + self.chunk.count();
        if !self.values.is_empty() {
            self.values.push(self.chunk.finalize_non_root());
        }
        let only = || BlobHash(*self.chunk.finalize().as_bytes());
        let blob = root(&self.values).unwrap_or_else(only);
        Outline { blob, bytes, values: self.values }
    }
}

/// The name that values come to; `None` where there are none.
fn root(values: &[ChainingValue]) -> Option<BlobHash> {
    let (left, right) = halves(values)?;
    let root = merge_subtrees_root(&merge(left), &merge(right), Mode::Hash);
    Some(BlobHash(*root.as_bytes()))
}

fn merge(values: &[ChainingValue]) -> ChainingValue {
    match halves(values) {
        Some((left, right)) => merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash),
        None => values[0],
    }
}

/// Both sides of a node over more than one value: on its left is the largest power of two that leaves something on its
/// right.
fn halves(values: &[ChainingValue]) -> Option<(&[ChainingValue], &[ChainingValue])> {
    let left = values.len().checked_sub(1)?.checked_ilog2()?;
    Some(values.split_at(1 << left))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = CHUNK_BYTES as usize;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
    }

    fn outline(bytes: &[u8], piece: usize) -> Outline {
        let mut hasher = OutlineHasher::default();
        bytes.chunks(piece).for_each(|piece| hasher.update(piece));
        hasher.finish()
    }

    #[test]
    fn an_outline_comes_to_the_blobs_name_whatever_its_size() {
        let sizes = [0, 1, 1023, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 3 * MIB];
        let more = [4 * MIB, 5 * MIB + 77, 7 * MIB, 8 * MIB + 1, 11 * MIB - 5];
        for size in sizes.into_iter().chain(more) {
            let bytes = bytes(size);
            let name = BlobHash(*blake3::hash(&bytes).as_bytes());
            let made = outline(&bytes, 700_001);
            assert_eq!((made.blob(), made.bytes()), (name, size as u64), "{size}");
            assert_eq!(outline(&bytes, 2 * MIB + 3), made, "in whatever pieces");
            let travelled = made.to_bytes();
            assert_eq!(travelled.len() as u64, Outline::bytes_of(size as u64));
            let read = Outline::read(name, size as u64, &travelled).unwrap();
            assert_eq!(read, made);
            for chunk in 0..read.chunks() {
                let place = read.place(chunk..chunk + 1);
                let chunk_bytes = &bytes[place.start as usize..place.end as usize];
                assert!(read.has(chunk, chunk_bytes), "{size}: chunk {chunk}");
                assert!(chunk == 0 || !read.has(chunk - 1, chunk_bytes), "{size}: chunk {chunk}");
            }
            assert_eq!(read.place(0..read.chunks()), 0..size as u64);
        }
    }

    #[test]
    fn a_flipped_bit_is_seen_in_its_chunk_and_in_no_other() {
        let mut bytes = bytes(3 * MIB + 9);
        let whole = outline(&bytes, MIB);
        bytes[2 * MIB + 5] ^= 1;
        let sound: Vec<bool> =
            (0..4).zip(bytes.chunks(MIB)).map(|(i, b)| whole.has(i, b)).collect();
        assert_eq!(sound, [true, true, false, true]);
        assert!(!whole.has(3, &bytes[3 * MIB..3 * MIB + 8]), "too short");
        assert!(!whole.has(4, &[]), "behind the end");
        let small = outline(b"small", 5);
        assert!(small.has(0, b"small") && !small.has(0, b"smell") && !small.has(0, b""));
    }

    #[test]
    fn an_outline_that_is_not_the_blobs_is_refused() {
        let outline = outline(&bytes(5 * MIB + 1), MIB);
        let (name, values) = (outline.blob(), outline.to_bytes());
        let read = |size: u64, values: &[u8]| Outline::read(name, size, values).unwrap_err();
        let mut other = values.clone();
        other[100] ^= 1;
        assert!(matches!(read(outline.bytes(), &other), OutlineError::Name { .. }));
        let length = OutlineError::Length { found: 160, expected: 192 };
        assert_eq!(read(outline.bytes(), &values[..160]), length);
        assert!(matches!(read(3 * MIB as u64, &values), OutlineError::Length { .. }));
        assert!(matches!(read(0, &values), OutlineError::Length { .. }));
        // As many values, but a last chunk of another length: nothing will be that chunk.
        let longer = Outline::read(name, outline.bytes() + 1, &values).unwrap();
        assert!(!longer.has(5, &bytes(5 * MIB + 2)[5 * MIB..]));
    }
}
