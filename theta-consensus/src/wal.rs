//! What a node must remember to stay safe: one record per moment, written as a whole or not at all.
//!
//! Blocks stand in the log before a vote or a lock that names them does. So after a crash of every node at once each
//! of them still has all blocks between the settled one and whatever it voted for or is locked on. The epoch needs no
//! record of its own: it stands in the last vote and the last proposal, and nothing else that leaves a node binds it.

use serde::{Deserialize, Serialize};
use theta_core::{
    block::{Block, CommitCertificate},
    hash::Hash,
    journal::Record,
};

/// One entry of the write-ahead log. Later entries override the parts that earlier ones name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRecord {
    /// Signed blocks above the settled one, parents first.
    #[serde(with = "as_rlp")]
    pub blocks: Vec<Block>,
    /// The lock: certificate of the highest certified block.
    #[serde(with = "option_as_rlp")]
    pub lock: Option<CommitCertificate>,
    /// The last vote.
    pub vote: Option<WalVote>,
    /// The last proposal, as yet unsigned.
    #[serde(with = "option_as_rlp")]
    pub proposal: Option<Block>,
    /// The newest final checkpoint: hash and height. The chain never leaves it, not even if its data are restored from a
    /// copy made before.
    pub checkpoint: Option<(Hash, u64)>,
}

impl Record for WalRecord {
    const VERSION: u8 = 2;
}

/// A vote as the log remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalVote {
    /// The block voted for.
    pub block: Hash,
    /// Its height.
    pub height: u64,
    /// The epoch in which the vote was signed last.
    pub epoch: u64,
}

/// Values as their wire bytes: the one form that is known to keep every signature as it came.
mod as_rlp {
    use std::fmt;

    use serde::{
        Deserialize, Deserializer, Serialize, Serializer,
        de::{Error as _, Visitor},
    };
    use theta_core::codec::{
        record::MAX_RECORD,
        rlp::{Decode, Encode},
    };

    /// Bytes as one piece; serde takes a vector of them one by one.
    struct Bytes(Vec<u8>);

    impl Serialize for Bytes {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Bytes {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Read;
            impl Visitor<'_> for Read {
                type Value = Bytes;
                fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                    to.write_str("bytes")
                }
                fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                    Ok(Bytes(bytes.to_vec()))
                }
                fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                    Ok(Bytes(bytes))
                }
            }
            from.deserialize_byte_buf(Read)
        }
    }

    pub(super) fn serialize<T: Encode, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        values.iter().map(|value| Bytes(value.to_rlp())).collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, T: Decode, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
        let values = Vec::<Bytes>::deserialize(from)?;
        values.iter().map(|bytes| T::from_rlp(&bytes.0, MAX_RECORD).map_err(D::Error::custom)).collect()
    }
}

mod option_as_rlp {
    use serde::{Deserializer, Serializer};
    use theta_core::codec::rlp::{Decode, Encode};

    pub(super) fn serialize<T: Encode, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        super::as_rlp::serialize(value.as_slice(), to)
    }

    pub(super) fn deserialize<'de, T: Decode, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        Ok(super::as_rlp::deserialize(from)?.pop())
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{
        block::Header,
        journal::{Journal, MemDisk},
        sign::Signature,
        vote::{Vote, VoteSet},
    };

    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let header = Header { signature: Signature::from_bytes(vec![7; 65]), ..Header::zero() };
        let block = Block { header, transactions: vec![vec![1, 2], Vec::new()] };
        let vote = Vote {
            signature: Signature::from_bytes(vec![9; 65]),
            ..Vote::unsigned(Hash::repeat_byte(1), 3, 4, theta_core::hash::Address::repeat_byte(2))
        };
        let record = WalRecord {
            blocks: vec![block.clone(), block.clone()],
            lock: Some(CommitCertificate { votes: VoteSet::new([vote]).into(), block: Hash::repeat_byte(1) }),
            vote: Some(WalVote { block: Hash::repeat_byte(1), height: 3, epoch: 4 }),
            proposal: Some(block),
            checkpoint: Some((Hash::repeat_byte(5), 11)),
        };
        let disk = MemDisk::default();
        let (mut journal, _) = Journal::open(disk.clone()).expect("empty");
        journal.append(&record).expect("in memory");
        journal.append(&WalRecord::default()).expect("in memory");
        let (_, read) = Journal::<WalRecord>::open(disk).expect("whole");
        assert_eq!(read, [record, WalRecord::default()]);
    }
}
