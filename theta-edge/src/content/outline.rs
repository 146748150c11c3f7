//! A blob's chunks, each with a hash of its own that leads to the blob's name (edge.md 6.1).
//!
//! BLAKE3 is a tree over pieces of 1 KiB. Its nodes above 256 KiB are the chunks' hashes, which anybody can put together to
//! the root: so a list of them is believed on its own, and then each chunk, whoever it comes from.

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use theta_core::hash::Hash;

use crate::blob::{BlobHash, BlobRef};

/// Bytes of a chunk; a blob's last has what is left.
pub const CHUNK: u64 = 256 << 10;

/// The hashes of a blob's chunks; none where it is one chunk, whose hash is the blob's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    blob: BlobRef,
    chunks: Vec<ChainingValue>,
}

/// How many chunks a blob has: one at least.
pub const fn count(blob: &BlobRef) -> u64 {
    let count = blob.len.div_ceil(CHUNK);
    if count == 0 { 1 } else { count }
}

/// Bytes of a chunk; `None` where the blob has no such one.
pub fn len(blob: &BlobRef, index: u64) -> Option<u64> {
    (index < count(blob)).then(|| blob.len.saturating_sub(index * CHUNK).min(CHUNK))
}

fn chunk_hash(index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index * CHUNK);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The node above these, which is not the root.
fn merge(chunks: &[ChainingValue]) -> ChainingValue {
    match chunks {
        [one] => *one,
        _ => {
            let (left, right) = halves(chunks);
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// The left part of a node is the largest power of two that leaves something to the right.
fn halves(chunks: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    let left = chunks.len().next_power_of_two() / 2;
    chunks.split_at(left.max(1).min(chunks.len()))
}

impl Outline {
    /// The outline of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let blob = BlobRef::of(bytes);
        let mut chunks = Vec::new();
        if count(&blob) > 1 {
            let pieces = bytes.chunks(CHUNK as usize).zip(0_u64..);
            chunks.extend(pieces.map(|(piece, index)| chunk_hash(index, piece)));
        }
        Self { blob, chunks }
    }

    /// The one of a blob that is a single chunk, which needs none.
    pub fn single(blob: BlobRef) -> Option<Self> {
        (count(&blob) == 1).then_some(Self { blob, chunks: Vec::new() })
    }

    /// Believes hashes that somebody gave if they lead to the blob's name.
    pub fn check(blob: BlobRef, hashes: &[Hash]) -> Option<Self> {
        if count(&blob) == 1 {
            return hashes.is_empty().then_some(Self { blob, chunks: Vec::new() });
        }
        if hashes.len() as u64 != count(&blob) {
            return None;
        }
        let chunks: Vec<ChainingValue> = hashes.iter().map(|hash| hash.0).collect();
        let (left, right) = halves(&chunks);
        let root = merge_subtrees_root(&merge(left), &merge(right), Mode::Hash);
        (BlobHash(Hash::from(*root.as_bytes())) == blob.hash).then_some(Self { blob, chunks })
    }

    /// The hashes, as [`Self::check`] takes them.
    pub fn hashes(&self) -> Vec<Hash> {
        self.chunks.iter().map(|chunk| Hash::from(*chunk)).collect()
    }

    /// Whose it is.
    pub const fn blob(&self) -> &BlobRef {
        &self.blob
    }

    /// Whether these are the bytes of a chunk.
    pub fn holds(&self, index: u64, bytes: &[u8]) -> bool {
        if len(&self.blob, index) != Some(bytes.len() as u64) {
            return false;
        }
        match self.chunks.get(index as usize) {
            Some(chunk) => *chunk == chunk_hash(index, bytes),
            None => self.chunks.is_empty() && BlobHash::of(bytes) == self.blob.hash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
    }

    #[test]
    fn chunks_of_every_number_lead_to_the_blobs_name() {
        let chunk = CHUNK as usize;
        for len in [
            0,
            1,
            1024,
            chunk - 1,
            chunk,
            chunk + 1,
            2 * chunk,
            2 * chunk + 5,
            3 * chunk,
            4 * chunk,
            5 * chunk + 1,
            7 * chunk,
        ] {
            let bytes = bytes(len);
            let outline = Outline::of(&bytes);
            assert_eq!(*outline.blob(), BlobRef::of(&bytes));
            assert_eq!(Outline::check(*outline.blob(), &outline.hashes()), Some(outline.clone()), "{len}");
            let all = (0..count(outline.blob())).all(|index| {
                let begin = index as usize * chunk;
                outline.holds(index, &bytes[begin..(begin + chunk).min(len)])
            });
            assert!(all, "{len}");
        }
    }

    #[test]
    fn nothing_else_is_believed() {
        let bytes = bytes(3 * CHUNK as usize + 9);
        let outline = Outline::of(&bytes);
        let blob = *outline.blob();
        let hashes = outline.hashes();
        for index in 0..hashes.len() {
            let mut wrong = hashes.clone();
            wrong[index].0[7] ^= 1;
            assert_eq!(Outline::check(blob, &wrong), None);
        }
        assert_eq!(Outline::check(blob, &hashes[1..]), None);
        assert_eq!(Outline::check(blob, &[]), None);
        let swapped = [hashes[1], hashes[0], hashes[2], hashes[3]];
        assert_eq!(Outline::check(blob, &swapped), None);
        let first = &bytes[..CHUNK as usize];
        assert!(outline.holds(0, first) && !outline.holds(1, first) && !outline.holds(4, &[]));
        let mut poisoned = first.to_vec();
        poisoned[1000] ^= 1;
        assert!(!outline.holds(0, &poisoned) && !outline.holds(0, &first[1..]));
        let small = Outline::of(b"small");
        assert!(small.holds(0, b"small") && !small.holds(0, b"smalL") && !small.holds(1, b""));
        assert_eq!(Outline::check(*small.blob(), &[Hash::ZERO]), None);
        assert!(Outline::single(blob).is_none() && Outline::single(*small.blob()).is_some());
    }
}
