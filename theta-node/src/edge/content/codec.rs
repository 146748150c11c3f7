//! What edge nodes ask each other for content, in bytes.

use theta_core::{
    amount::TFuelWei,
    codec::rlp::{Decode as _, DecodeError, Encode as _, Fault, Reader, encode_list, encode_string},
    hash::Hash,
};
use theta_edge::{
    blob::{BlobHash, BlobRef},
    content::outline::CHUNK,
    message::MAX_MESSAGE,
    payment::purse::Tick,
};

use crate::net::codec::Wire;

/// A question of one edge node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The hashes of a blob's chunks. Costs nothing: they are 32 bytes for 256 KiB.
    Outline(BlobRef),
    /// A chunk, with the last tick for those that came before it.
    Chunk { blob: BlobRef, index: u64, fund: u64, tick: Option<Tick> },
    /// A sealed message ([`theta_edge::message::Envelope`]): a receipt, or that one was heard.
    Envelope(Vec<u8>),
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has nothing of this.
    Missing,
    /// Hashes of chunks.
    Outline(Vec<Hash>),
    /// A chunk.
    Chunk(Vec<u8>),
    /// A receipt first, by which ticks of so much each pay for a chunk, or one for those that were released.
    Pay(TFuelWei),
    /// It was heard.
    Heard,
}

/// Most bytes of a question and of an answer.
const MAX_QUESTION: u64 = MAX_MESSAGE as u64 + 1024;
const MAX_ANSWER: u64 = CHUNK + 64 * 1024;

fn blob(list: &mut Reader<'_>) -> Result<BlobRef, DecodeError> {
    Ok(BlobRef { hash: BlobHash(list.read()?), len: list.read()? })
}

impl Wire for Question {
    const LIMIT: u64 = MAX_QUESTION;

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_list(&mut out, |out| match self {
            Self::Outline(blob) => {
                0_u8.encode(out);
                blob.hash.0.encode(out);
                blob.len.encode(out);
            }
            Self::Chunk { blob, index, fund, tick } => {
                1_u8.encode(out);
                blob.hash.0.encode(out);
                blob.len.encode(out);
                index.encode(out);
                fund.encode(out);
                encode_list(out, |out| {
                    if let Some(tick) = tick {
                        tick.anchor.encode(out);
                        tick.index.encode(out);
                        tick.word.encode(out);
                    }
                });
            }
            Self::Envelope(bytes) => {
                2_u8.encode(out);
                encode_string(bytes, out);
            }
        });
        out
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        let mut list = reader.list()?;
        let unknown = list.error(Fault::Value("no question of this kind"));
        let question = match list.read::<u8>()? {
            0 => Self::Outline(blob(&mut list)?),
            1 => {
                let (blob, index, fund) = (blob(&mut list)?, list.read()?, list.read()?);
                let mut inner = list.list()?;
                let tick = match inner.is_empty() {
                    true => None,
                    false => {
                        let (anchor, index, word) = (inner.read()?, u32::decode(&mut inner)?, inner.read()?);
                        Some(Tick { reserve_sequence: fund, anchor, index, word })
                    }
                };
                inner.finish()?;
                Self::Chunk { blob, index, fund, tick }
            }
            2 => Self::Envelope(list.string()?.to_vec()),
            _ => return Err(unknown),
        };
        list.finish()?;
        reader.finish()?;
        Ok(question)
    }
}

impl Wire for Answer {
    const LIMIT: u64 = MAX_ANSWER;

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_list(&mut out, |out| match self {
            Self::Missing => 0_u8.encode(out),
            Self::Outline(hashes) => {
                1_u8.encode(out);
                hashes.encode(out);
            }
            Self::Chunk(bytes) => {
                2_u8.encode(out);
                encode_string(bytes, out);
            }
            Self::Pay(unit) => {
                3_u8.encode(out);
                unit.encode(out);
            }
            Self::Heard => 4_u8.encode(out),
        });
        out
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        let mut list = reader.list()?;
        let unknown = list.error(Fault::Value("no answer of this kind"));
        let answer = match list.read::<u8>()? {
            0 => Self::Missing,
            1 => Self::Outline(list.read()?),
            2 => Self::Chunk(list.string()?.to_vec()),
            3 => Self::Pay(list.read()?),
            4 => Self::Heard,
            _ => return Err(unknown),
        };
        list.finish()?;
        reader.finish()?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use super::*;

    #[test]
    fn questions_and_answers_are_read_back_and_others_are_refused() {
        let blob = BlobRef::of(b"blob");
        let tick =
            Tick { reserve_sequence: 7, anchor: Hash::repeat_byte(1), index: 9, word: Hash::repeat_byte(2) };
        for question in [
            Question::Outline(blob),
            Question::Chunk { blob, index: 3, fund: 7, tick: None },
            Question::Chunk { blob, index: 0, fund: 7, tick: Some(tick) },
            Question::Envelope(vec![1, 2, 3]),
        ] {
            assert_eq!(Question::read(&question.write()).unwrap(), question);
        }
        for answer in [
            Answer::Missing,
            Answer::Outline(vec![Hash::repeat_byte(1); 3]),
            Answer::Chunk(vec![5; 100]),
            Answer::Pay(TFuelWei::whole(1)),
            Answer::Heard,
        ] {
            assert_eq!(Answer::read(&answer.write()).unwrap(), answer);
        }
        for bad in [&[][..], &[0xc0], &[0xc1, 9], &[0xc2, 0, 1], &[0xc1, 0x80, 0x80], &[0xff; 9]] {
            assert!(Question::read(bad).is_err(), "{bad:x?}");
        }
        for bad in [&[][..], &[0xc0], &[0xc1, 9], &[0xc2, 2, 0xc0], &[0xff; 9]] {
            assert!(Answer::read(bad).is_err(), "{bad:x?}");
        }
    }
}
