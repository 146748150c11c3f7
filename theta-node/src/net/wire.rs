//! Bytes on the network: gossip, and questions to one peer with their answers.

use std::sync::Arc;

use theta_consensus::{MAX_MESSAGE_BYTES, Message};
use theta_core::{
    block::{Block, MAX_BLOCK_BYTES},
    codec::rlp::{Decode, DecodeError, Encode, Fault, Reader, encode_list, encode_string},
    hash::Hash,
};

use super::codec::Wire;
use crate::{clock::now_millis, snapshots::Offer};

/// What gossip is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Transactions,
    Votes,
    Blocks,
}

impl Topic {
    pub(super) const ALL: [Self; 3] = [Self::Transactions, Self::Votes, Self::Blocks];

    /// Its name on one chain's network.
    pub(super) fn name(self, genesis: &Hash) -> String {
        let kind = match self {
            Self::Transactions => "transactions",
            Self::Votes => "votes",
            Self::Blocks => "blocks",
        };
        format!("/theta/{genesis}/{kind}/1")
    }

    /// Most bytes of a message.
    pub(super) const fn limit(self) -> usize {
        match self {
            // Those that the pool takes, and as many before as are gathered.
            Self::Transactions => 1024 * 1024,
            Self::Votes => MAX_MESSAGE_BYTES + 64,
            Self::Blocks => MAX_BLOCK_BYTES,
        }
    }
}

/// A vote that is told again, because somebody may have missed it, must not look like the one that was told before.
const AGAIN_MILLIS: u64 = 1_000;

/// Gossip of a vote.
pub(super) fn vote(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode_list(&mut out, |out| {
        (now_millis() / AGAIN_MILLIS).encode(out);
        message.encode(out);
    });
    out
}

/// The vote in gossip.
pub(super) fn read_vote(bytes: &[u8]) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(bytes, Topic::Votes.limit())?;
    let mut list = reader.list()?;
    u64::decode(&mut list)?;
    let message = Message::decode(&mut list)?;
    list.finish()?;
    reader.finish()?;
    Ok(message)
}

/// Transactions in one piece of gossip.
pub(super) const MOST_TRANSACTIONS: usize = 1024;

/// Gossip of transactions.
pub(super) fn transactions(raw: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_list(&mut out, |out| raw.iter().for_each(|raw| encode_string(raw, out)));
    out
}

/// The transactions in gossip, one at least.
pub(super) fn read_transactions(bytes: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut reader = Reader::new(bytes, Topic::Transactions.limit())?;
    let mut list = reader.list()?;
    let many = list.error(Fault::Value("more transactions than travel together"));
    let mut raw = vec![list.string()?.to_vec()];
    while !list.is_empty() {
        raw.push(list.string()?.to_vec());
        if raw.len() > MOST_TRANSACTIONS {
            return Err(many);
        }
    }
    reader.finish()?;
    Ok(raw)
}

/// Gossip of a block.
pub(super) fn block(block: &Block) -> Vec<u8> {
    block.to_rlp()
}

/// The block in gossip.
pub(super) fn read_block(bytes: &[u8]) -> Result<Block, DecodeError> {
    Block::from_rlp(bytes, MAX_BLOCK_BYTES)
}

/// What one node asks another.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a message is moved a few times at most")]
pub(super) enum Question {
    /// Blocks up to this one, above a height.
    Fetch { block: Hash, above: u64 },
    /// Nothing: it tells where it stands, or gives its vote to whoever has a use for it.
    Note(Message),
    /// The newest snapshot.
    Snapshot,
    /// A piece of it.
    Piece { height: u64, index: u64 },
    /// What waits in the pool.
    Waiting,
    /// Some of that.
    Transactions(Vec<Hash>),
}

/// Transactions that one question asks for.
pub(crate) const MOST_ASKED: usize = 256;
/// Bytes of transactions in an answer.
pub(crate) const MAX_ANSWERED: usize = 1024 * 1024;

/// What it is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Blocks in a row, lowest first; none where it does not have what was asked for.
    Blocks(Vec<Arc<Block>>),
    /// It was heard.
    Heard,
    /// The newest snapshot, or the default where there is none.
    Snapshot(Offer),
    /// A piece, empty where there is none.
    Piece { height: u64, index: u64, bytes: Vec<u8> },
    /// What waits in the pool, the longest first.
    Waiting(Vec<Hash>),
    /// Those of the transactions asked for that wait there.
    Transactions(Vec<Vec<u8>>),
}

/// Most bytes of a question.
const MAX_QUESTION: u64 = MAX_MESSAGE_BYTES as u64 + 64;
/// Most bytes of an answer: one block of any size, or as many small ones as fit.
pub(super) const MAX_ANSWER: usize = MAX_BLOCK_BYTES + 1024;

impl Wire for Question {
    const LIMIT: u64 = MAX_QUESTION;

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_list(&mut out, |out| match self {
            Self::Fetch { block, above } => {
                0_u8.encode(out);
                block.encode(out);
                above.encode(out);
            }
            Self::Note(message) => {
                1_u8.encode(out);
                message.encode(out);
            }
            Self::Snapshot => 2_u8.encode(out),
            Self::Piece { height, index } => {
                3_u8.encode(out);
                height.encode(out);
                index.encode(out);
            }
            Self::Waiting => 4_u8.encode(out),
            Self::Transactions(hashes) => {
                5_u8.encode(out);
                hashes.encode(out);
            }
        });
        out
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        let mut list = reader.list()?;
        let unknown = list.error(Fault::Value("no question of this kind"));
        let question = match list.read::<u8>()? {
            0 => Self::Fetch { block: list.read()?, above: list.read()? },
            1 => Self::Note(list.read()?),
            2 => Self::Snapshot,
            3 => Self::Piece { height: list.read()?, index: list.read()? },
            4 => Self::Waiting,
            5 => {
                let (hashes, many) =
                    (list.read::<Vec<Hash>>()?, list.error(Fault::Value("more than is asked for at once")));
                if hashes.len() > MOST_ASKED {
                    return Err(many);
                }
                Self::Transactions(hashes)
            }
            _ => return Err(unknown),
        };
        list.finish()?;
        reader.finish()?;
        Ok(question)
    }
}

impl Wire for Answer {
    const LIMIT: u64 = MAX_ANSWER as u64;

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_list(&mut out, |out| match self {
            Self::Blocks(blocks) => {
                0_u8.encode(out);
                encode_list(out, |out| {
                    // What does not fit is asked for again.
                    let before = out.len();
                    for block in blocks {
                        let bytes = block.to_rlp();
                        if out.len() > before && out.len() - before + bytes.len() > MAX_BLOCK_BYTES {
                            break;
                        }
                        out.extend(bytes);
                    }
                });
            }
            Self::Heard => 1_u8.encode(out),
            Self::Snapshot(offer) => {
                2_u8.encode(out);
                offer.encode(out);
            }
            Self::Piece { height, index, bytes } => {
                3_u8.encode(out);
                height.encode(out);
                index.encode(out);
                encode_string(bytes, out);
            }
            Self::Waiting(hashes) => {
                4_u8.encode(out);
                hashes.encode(out);
            }
            Self::Transactions(raw) => {
                5_u8.encode(out);
                raw.encode(out);
            }
        });
        out
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        let mut list = reader.list()?;
        let unknown = list.error(Fault::Value("no answer of this kind"));
        let answer = match list.read::<u8>()? {
            0 => {
                let mut items = list.list()?;
                let mut blocks = Vec::new();
                while !items.is_empty() {
                    blocks.push(Arc::new(Block::decode(&mut items)?));
                }
                Self::Blocks(blocks)
            }
            1 => Self::Heard,
            2 => Self::Snapshot(list.read()?),
            3 => Self::Piece { height: list.read()?, index: list.read()?, bytes: list.string()?.to_vec() },
            4 => Self::Waiting(list.read()?),
            5 => Self::Transactions(list.read()?),
            _ => return Err(unknown),
        };
        list.finish()?;
        reader.finish()?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read_back_and_others_are_refused() {
        let question = Question::Fetch { block: Hash::repeat_byte(7), above: 300 };
        let Ok(Question::Fetch { block, above }) = Question::read(&question.write()) else {
            panic!("another one")
        };
        assert_eq!((block, above), (Hash::repeat_byte(7), 300));
        assert!(matches!(Answer::read(&Answer::Heard.write()), Ok(Answer::Heard)));
        for bad in [&[][..], &[0xc0], &[0xc1, 9], &[0xc2, 0, 1], &[0xc1, 0, 0], &[0xff; 9]] {
            assert!(Question::read(bad).is_err(), "{bad:x?}");
        }
        assert!(
            matches!(Answer::read(&Answer::Blocks(Vec::new()).write()), Ok(Answer::Blocks(none)) if none.is_empty())
        );
        let piece = Answer::Piece { height: 7, index: 1, bytes: vec![5; 100] };
        assert!(matches!(
            Answer::read(&piece.write()),
            Ok(Answer::Piece { height: 7, index: 1, bytes }) if bytes == [5; 100]
        ));
        assert!(matches!(Question::read(&Question::Snapshot.write()), Ok(Question::Snapshot)));
        let hashes = vec![Hash::repeat_byte(1), Hash::repeat_byte(2)];
        assert!(matches!(Question::read(&Question::Waiting.write()), Ok(Question::Waiting)));
        assert!(matches!(
            Question::read(&Question::Transactions(hashes.clone()).write()),
            Ok(Question::Transactions(read)) if read == hashes
        ));
        let many = vec![Hash::repeat_byte(1); MOST_ASKED + 1];
        assert!(Question::read(&Question::Transactions(many).write()).is_err());
        assert!(matches!(
            Answer::read(&Answer::Waiting(hashes.clone()).write()),
            Ok(Answer::Waiting(read)) if read == hashes
        ));
        assert!(matches!(
            Answer::read(&Answer::Transactions(vec![vec![1], vec![2; 99]]).write()),
            Ok(Answer::Transactions(read)) if read == [vec![1], vec![2; 99]]
        ));
        for bad in [&[][..], &[0xc0], &[0xc1, 9], &[0xc0, 0], &[0xc2, 0xc0, 0xc0], &[0xff; 9]] {
            assert!(Answer::read(bad).is_err(), "{bad:x?}");
        }
        assert!(read_vote(&[0xc2, 0x01, 0xc0]).is_err());
        assert!(read_block(&[0xc0]).is_err());
        let raw = vec![vec![1, 2, 3], Vec::new(), vec![0x80; 300]];
        assert_eq!(read_transactions(&transactions(&raw)), Ok(raw));
        for bad in [&[][..], &[0xc0], &[0xc1, 0xc0], &[0xc1, 0x85], &[0xc1, 1, 2]] {
            assert!(read_transactions(bad).is_err(), "{bad:x?}");
        }
    }
}
