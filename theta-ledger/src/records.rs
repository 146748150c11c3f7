//! Files of records, as genesis files, snapshots and chain files are (`ledger.md` 8.1, 9): each record is a length in
//! eight little-endian bytes and as many bytes of RLP. Errors name the record and its place in the file.

use std::io::{Read, Write};

use theta_core::{
    block::Header,
    codec::rlp::{Decode, DecodeError, Encode, Fault, Item, Reader, encode_list},
    rlp_list,
    vote::VoteSet,
};

use crate::error::SnapshotError;

/// What files newer than version 1 begin with.
const MAGIC: &str = "ThetaToDaMoon";

/// The three headers that a snapshot proves itself by. In a genesis file only the second says anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trio {
    pub(crate) first: (Header, Vec<ProofNode>),
    pub(crate) second: Header,
    pub(crate) third: (Header, VoteSet),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProofNode {
    pub(crate) hash: Vec<u8>,
    pub(crate) node: Vec<u8>,
}

rlp_list!(ProofNode { hash, node });

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) proofs: Vec<Trio>,
    pub(crate) tail: Trio,
}

rlp_list!(Metadata { proofs, tail });

impl Item for Trio {}

impl Encode for Trio {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            encode_list(out, |out| {
                self.first.0.encode(out);
                self.first.1.encode(out);
            });
            encode_list(out, |out| self.second.encode(out));
            encode_list(out, |out| {
                self.third.0.encode(out);
                self.third.1.encode(out);
            });
        });
    }
}

impl Decode for Trio {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let (mut first, mut second, mut third) = (list.list()?, list.list()?, list.list()?);
        list.finish()?;
        let trio = Self {
            first: (first.read()?, first.read()?),
            second: second.read()?,
            third: (third.read()?, third.read()?),
        };
        for part in [first, second, third] {
            part.finish()?;
        }
        Ok(trio)
    }
}

/// A key and a value of a trie, or a mark.
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

rlp_list!(Entry { key, value });

/// Where a section of entries begins and ends; their keys are one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Open = 0,
    Close = 1,
}

impl Entry {
    pub(crate) fn mark(mark: Mark, height: u64) -> Self {
        Self { key: vec![mark as u8], value: height.to_le_bytes().to_vec() }
    }

    /// The mark that it is, with its height.
    pub(crate) fn as_mark(&self) -> Option<(Mark, u64)> {
        let mark = match self.key.as_slice() {
            [0] => Mark::Open,
            [1] => Mark::Close,
            _ => return None,
        };
        Some((mark, u64::from_le_bytes(self.value.as_slice().try_into().ok()?)))
    }
}

/// One record of a file.
pub(crate) struct Record {
    pub(crate) number: usize,
    /// Where its contents begin.
    pub(crate) at: usize,
    bytes: Vec<u8>,
}

impl Record {
    pub(crate) fn unexpected(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Unexpected { record: self.number, at: self.at, what }
    }

    pub(crate) fn malformed(&self, source: DecodeError) -> SnapshotError {
        SnapshotError::Malformed { record: self.number, at: self.at, source }
    }

    pub(crate) fn decode<T: Decode>(&self) -> Result<T, SnapshotError> {
        T::from_rlp(&self.bytes, self.bytes.len()).map_err(|source| self.malformed(source))
    }
}

/// Reads records one after the other.
pub(crate) struct Records<R> {
    input: R,
    number: usize,
    at: usize,
}

impl<R: Read> Records<R> {
    pub(crate) const fn new(input: R) -> Self {
        Self { input, number: 0, at: 0 }
    }

    /// Goes on inside a file, at this record and byte.
    pub(crate) const fn at(input: R, number: usize, at: usize) -> Self {
        Self { input, number, at }
    }

    /// Records read so far.
    pub(crate) const fn count(&self) -> usize {
        self.number
    }

    /// The next record, or nothing at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, SnapshotError> {
        let (number, at) = (self.number, self.at);
        let cut = |needed, left| SnapshotError::Cut { record: number, at, needed, left };
        let mut read = |length: u64| -> Result<Vec<u8>, SnapshotError> {
            let mut bytes = Vec::new();
            // Grows with what is there, not with what the length says.
            self.input.by_ref().take(length).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let length = read(8)?;
        if length.is_empty() {
            return Ok(None);
        }
        let left = length.len();
        let length = u64::from_le_bytes(length.try_into().map_err(|_| cut(8, left))?);
        let bytes = read(length)?;
        if bytes.len() as u64 != length {
            return Err(cut(length.saturating_add(8), bytes.len() + 8));
        }
        self.number += 1;
        self.at += 8 + bytes.len();
        Ok(Some(Record { number, at: at + 8, bytes }))
    }

    /// The next record; at the end of the file the error says `what`.
    pub(crate) fn require(&mut self, what: &'static str) -> Result<Record, SnapshotError> {
        let (record, at) = (self.number, self.at);
        self.next()?.ok_or(SnapshotError::Unexpected { record, at, what })
    }
}

/// Appends a record to a file.
pub(crate) fn write_record(out: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)
}

/// The first record of files newer than version 1.
pub(crate) struct Version {
    magic: String,
    pub(crate) version: u64,
}

impl Version {
    pub(crate) fn new(version: u64) -> Self {
        Self { magic: MAGIC.to_owned(), version }
    }
}

impl Encode for Version {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.magic.encode(out);
            self.version.encode(out);
        });
    }
}

impl Decode for Version {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let error = input.error(Fault::Value("no version record"));
        let mut list = input.list()?;
        let version = Self { magic: list.read()?, version: list.read()? };
        list.finish()?;
        if version.magic == MAGIC { Ok(version) } else { Err(error) }
    }
}
