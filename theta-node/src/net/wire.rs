//! Bytes on the network: gossip, and questions to one peer with their answers.

use std::{io, sync::Arc};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use theta_consensus::{MAX_MESSAGE_BYTES, Message};
use theta_core::{
    block::{Block, MAX_BLOCK_BYTES},
    codec::rlp::{Decode, DecodeError, Encode, Fault, Reader, encode_list},
    hash::Hash,
};

use crate::clock::now_millis;

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
            Self::Transactions => 8 * 1024 * 1024 + 1024,
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
pub(super) enum Question {
    /// Blocks up to this one, above a height.
    Fetch { block: Hash, above: u64 },
    /// Nothing: it tells where it stands.
    Note(Message),
}

/// What it is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Blocks in a row, lowest first.
    Blocks(Vec<Arc<Block>>),
    /// It was heard.
    Heard,
}

/// Most bytes of a question.
const MAX_QUESTION: u64 = MAX_MESSAGE_BYTES as u64 + 64;
/// Most bytes of an answer: one block of any size, or as many small ones as fit.
pub(super) const MAX_ANSWER: usize = MAX_BLOCK_BYTES + 1024;

/// Reads and writes questions and answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Codec;

async fn read(io: &mut (impl AsyncRead + Unpin + Send), limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take(limit + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Question {
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
            _ => return Err(unknown),
        };
        list.finish()?;
        reader.finish()?;
        Ok(question)
    }
}

impl Answer {
    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Blocks(blocks) => {
                encode_list(&mut out, |out| {
                    // What does not fit is asked for again.
                    for block in blocks {
                        let bytes = block.to_rlp();
                        if !out.is_empty() && out.len() + bytes.len() > MAX_BLOCK_BYTES {
                            break;
                        }
                        out.extend(bytes);
                    }
                });
            }
            Self::Heard => encode_list(&mut out, |_| {}),
        }
        out
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        let mut list = reader.list()?;
        let mut blocks = Vec::new();
        while !list.is_empty() {
            blocks.push(Arc::new(Block::decode(&mut list)?));
        }
        reader.finish()?;
        Ok(if blocks.is_empty() { Self::Heard } else { Self::Blocks(blocks) })
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Question;
    type Response = Answer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Question>
    where
        T: AsyncRead + Unpin + Send,
    {
        Question::read(&read(io, MAX_QUESTION).await?).map_err(invalid)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        Answer::read(&read(io, MAX_ANSWER as u64).await?).map_err(invalid)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, question: Question) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&question.write()).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: Answer) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&answer.write()).await
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
        for bad in [&[][..], &[0xc0], &[0xc1, 2], &[0xc2, 0, 1], &[0xc1, 0, 0], &[0xff; 9]] {
            assert!(Question::read(bad).is_err(), "{bad:x?}");
        }
        for bad in [&[][..], &[0xc1, 0x80], &[0xc0, 0], &[0xff; 9]] {
            assert!(Answer::read(bad).is_err(), "{bad:x?}");
        }
        assert!(read_vote(&[0xc2, 0x01, 0xc0]).is_err());
        assert!(read_block(&[0xc0]).is_err());
    }
}
