//! Consensus bytes: the RLP dialect of the reference (geth's of 2018), strict when decoding.
//!
//! Lengths and integers are canonical, lists have exactly the declared number of items, and every error names the byte
//! it was found at. A reader never looks past the slice it was given and allocates no more than that slice holds, so the
//! caller's limit on the input bounds everything. Nesting is bounded by the types: none decodes itself.

use alloy_rlp::Header as RlpHeader;
use num_bigint::BigUint;

use crate::hash::{Address, Hash, U256};

/// Why bytes are not the RLP of the wanted type; `at` is the offset in the whole input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at byte {at}")]
pub struct DecodeError {
    /// Offset in the whole input.
    pub at: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What a [`DecodeError`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The input ends inside an item, or an item ends inside a list that is used up.
    #[error("input ends too early")]
    Cut,
    /// A string where a list belongs.
    #[error("a list was expected")]
    NotAList,
    /// A list where a string belongs.
    #[error("a string was expected")]
    NotAString,
    /// A length or an integer with leading zeros, or a single byte in a wrapper.
    #[error("not the shortest encoding")]
    NotCanonical,
    /// An integer wider than its type.
    #[error("integer is too large")]
    TooLarge,
    /// A fixed-size value of another length.
    #[error("wrong length")]
    Length,
    /// More items in a list, or bytes behind a value, than belong there.
    #[error("unexpected bytes")]
    Surplus,
    /// A value that its type does not allow; the text says which.
    #[error("{0}")]
    Value(&'static str),
    /// The input is larger than its limit in bytes.
    #[error("input is larger than {0} bytes")]
    Limit(usize),
}

/// A value with one RLP encoding.
pub trait Encode {
    /// Appends the encoding.
    fn encode(&self, out: &mut Vec<u8>);

    /// The encoding alone.
    fn to_rlp(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// A value that can be read back from RLP.
pub trait Decode: Sized {
    /// Reads one value and moves past it.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads a value that fills `bytes`, of which there may be `limit` at most.
    fn from_rlp(bytes: &[u8], limit: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, limit)?;
        let value = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

/// A value that stands in lists: a `Vec` of it is the RLP list of its values. Bytes are none, `Vec<u8>` is a string.
pub trait Item: Encode + Decode {}

impl<T: Item> Encode for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_items(self, out);
    }
}

impl<T: Item> Decode for Vec<T> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.read_list()
    }
}

impl Item for Address {}
impl Item for Hash {}
impl Item for String {}
impl Item for Vec<u8> {}
impl Item for u32 {}
impl Item for u64 {}

/// A cursor over RLP bytes that knows where in the whole input it stands.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of an input of `limit` bytes at most.
    pub fn new(bytes: &'a [u8], limit: usize) -> Result<Self, DecodeError> {
        if bytes.len() > limit {
            return Err(DecodeError { at: limit, fault: Fault::Limit(limit) });
        }
        Ok(Self { rest: bytes, at: 0 })
    }

    /// Offset of the next byte in the whole input.
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left, undecoded.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error at the next byte.
    pub const fn error(&self, fault: Fault) -> DecodeError {
        DecodeError { at: self.at, fault }
    }

    /// Fails if anything is left.
    pub const fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(Fault::Surplus)) }
    }

    /// Whether the next item is the empty string or the empty list: what a missing value encodes as.
    pub fn next_is_empty_item(&self) -> bool {
        matches!(self.rest.first(), Some(0x80 | 0xc0))
    }

    /// Whether the next item is a list.
    pub fn next_is_list(&self) -> bool {
        self.rest.first().is_some_and(|byte| *byte >= 0xc0)
    }

    /// Whether the next item is a list, its payload, and where that begins.
    fn item(&mut self) -> Result<(bool, &'a [u8], usize), DecodeError> {
        let at = self.at;
        let error = |fault| DecodeError { at, fault };
        // Nearly all items are short; their header is one byte or none.
        let (list, header, length) = match *self.rest {
            [] => return Err(error(Fault::Cut)),
            [0..=0x7f, ..] => (false, 0, 1),
            [0x81, 0..=0x7f, ..] => return Err(error(Fault::NotCanonical)),
            [byte @ 0x80..=0xb7, ..] => (false, 1, usize::from(byte - 0x80)),
            [byte @ 0xc0..=0xf7, ..] => (true, 1, usize::from(byte - 0xc0)),
            [0xb8..=0xbf | 0xf8..=0xff, ..] => {
                let mut rest = self.rest;
                let header = RlpHeader::decode(&mut rest).map_err(|source| {
                    error(match source {
                        alloy_rlp::Error::InputTooShort => Fault::Cut,
                        alloy_rlp::Error::Overflow => Fault::TooLarge,
                        _ => Fault::NotCanonical,
                    })
                })?;
                (header.list, self.rest.len() - rest.len(), header.payload_length)
            }
        };
        // `get` keeps a lying length from reaching past the input.
        let behind = &self.rest[header..];
        let body = behind.get(..length).ok_or(error(Fault::Cut))?;
        self.rest = &behind[length..];
        self.at += header + length;
        Ok((list, body, at + header))
    }

    /// Reads a string.
    pub fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        match self.item()? {
            (false, body, _) => Ok(body),
            _ => Err(DecodeError { at, fault: Fault::NotAString }),
        }
    }

    /// Reads a string of exactly `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let at = self.at;
        self.string()?.try_into().map_err(|_| DecodeError { at, fault: Fault::Length })
    }

    /// Opens a list; the reader given back ends where the list ends.
    pub fn list(&mut self) -> Result<Reader<'a>, DecodeError> {
        let at = self.at;
        match self.item()? {
            (true, body, start) => Ok(Reader { rest: body, at: start }),
            _ => Err(DecodeError { at, fault: Fault::NotAList }),
        }
    }

    /// Reads one whole item, undecoded, with its header.
    pub fn raw_item(&mut self) -> Result<&'a [u8], DecodeError> {
        let before = self.rest;
        self.item()?;
        Ok(&before[..before.len() - self.rest.len()])
    }

    /// Reads the bytes of a non-negative integer of any width, without leading zeros.
    pub fn integer_bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let body = self.string()?;
        if body.first() == Some(&0) {
            return Err(DecodeError { at, fault: Fault::NotCanonical });
        }
        Ok(body)
    }

    /// Reads the next value.
    pub fn read<T: Decode>(&mut self) -> Result<T, DecodeError> {
        T::decode(self)
    }

    /// Reads items up to the end of the next list.
    pub fn read_list<T: Decode>(&mut self) -> Result<Vec<T>, DecodeError> {
        let mut list = self.list()?;
        let mut items = Vec::new();
        while !list.is_empty() {
            items.push(T::decode(&mut list)?);
        }
        Ok(items)
    }
}

/// Appends a list whose payload `fill` writes.
pub fn encode_list(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // Room for the header of a short list; what is longer is moved once.
    out.push(0);
    fill(out);
    let payload_length = out.len() - start - 1;
    if payload_length < 56 {
        out[start] = 0xc0 + payload_length as u8;
        return;
    }
    let mut header = [0; 9];
    let mut rest = header.as_mut_slice();
    RlpHeader { list: true, payload_length }.encode(&mut rest);
    let length = 9 - rest.len();
    out.resize(out.len() + length - 1, 0);
    out.copy_within(start + 1..start + 1 + payload_length, start + length);
    out[start..start + length].copy_from_slice(&header[..length]);
}

/// Appends a list of items.
pub fn encode_items<T: Encode>(items: &[T], out: &mut Vec<u8>) {
    encode_list(out, |out| items.iter().for_each(|item| item.encode(out)));
}

/// Appends a string.
pub fn encode_string(bytes: &[u8], out: &mut Vec<u8>) {
    match bytes {
        [byte @ 0..=0x7f] => out.push(*byte),
        // Nearly all strings are short; alloy's encoder writes through a virtual call for each part.
        _ if bytes.len() < 56 => {
            out.push(0x80 + bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
        _ => alloy_rlp::Encodable::encode(bytes, out),
    }
}

/// Appends an integer given as big-endian bytes; leading zeros are dropped.
pub fn encode_integer_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    encode_string(&bytes[zeros..], out);
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Encode for $ty {
            fn encode(&self, out: &mut Vec<u8>) {
                let zeros = self.leading_zeros() as usize / 8;
                encode_string(&self.to_be_bytes()[zeros..], out);
            }
        }
        impl Decode for $ty {
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let at = input.position();
                let body = input.integer_bytes()?;
                let mut bytes = [0; size_of::<$ty>()];
                let start = bytes.len().checked_sub(body.len()).ok_or(DecodeError { at, fault: Fault::TooLarge })?;
                bytes[start..].copy_from_slice(body);
                Ok(Self::from_be_bytes(bytes))
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, u128);

impl Encode for U256 {
    fn encode(&self, out: &mut Vec<u8>) {
        let zeros = self.leading_zeros() / 8;
        encode_string(&self.to_be_bytes::<32>()[zeros..], out);
    }
}

impl Decode for U256 {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = input.position();
        Self::try_from_be_slice(input.integer_bytes()?).ok_or(DecodeError { at, fault: Fault::TooLarge })
    }
}

impl Encode for BigUint {
    fn encode(&self, out: &mut Vec<u8>) {
        // What fits a machine word is nearly every amount there is.
        let mut digits = self.iter_u64_digits();
        match (digits.next(), digits.next(), digits.next()) {
            (low, high, None) => {
                let word = u128::from(high.unwrap_or_default()) << 64 | u128::from(low.unwrap_or_default());
                word.encode(out);
            }
            _ => encode_integer_bytes(&self.to_bytes_be(), out),
        }
    }
}

impl Decode for BigUint {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body = input.integer_bytes()?;
        // What fits a machine word is nearly every amount there is.
        let mut word = [0; 16];
        Ok(match word.len().checked_sub(body.len()) {
            Some(start) => {
                word[start..].copy_from_slice(body);
                Self::from(u128::from_be_bytes(word))
            }
            None => Self::from_bytes_be(body),
        })
    }
}

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        u8::from(*self).encode(out);
    }
}

impl Decode for bool {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let error = input.error(Fault::Value("a boolean is 0 or 1"));
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(error),
        }
    }
}

macro_rules! arrays {
    ($($ty:ty),*) => {$(
        impl Encode for $ty {
            fn encode(&self, out: &mut Vec<u8>) {
                encode_string(self.as_slice(), out);
            }
        }
        impl Decode for $ty {
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                input.array().map(Self::from)
            }
        }
    )*};
}
arrays!(Hash, Address);

impl Encode for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_string(self, out);
    }
}

impl Decode for Vec<u8> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.string().map(<[u8]>::to_vec)
    }
}

/// A string of UTF-8 characters.
impl Encode for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_string(self.as_bytes(), out);
    }
}

impl Decode for String {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let error = input.error(Fault::Value("not UTF-8"));
        Self::from_utf8(input.string()?.to_vec()).map_err(|_| error)
    }
}

/// Gives a struct the RLP list of its fields in the order named.
#[macro_export]
macro_rules! rlp_list {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::rlp::Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $crate::codec::rlp::encode_list(out, |out| {
                    $($crate::codec::rlp::Encode::encode(&self.$field, out);)*
                });
            }
        }
        impl $crate::codec::rlp::Decode for $name {
            fn decode(
                input: &mut $crate::codec::rlp::Reader<'_>,
            ) -> Result<Self, $crate::codec::rlp::DecodeError> {
                let mut list = input.list()?;
                $(let $field = $crate::codec::rlp::Decode::decode(&mut list)?;)*
                list.finish()?;
                Ok(Self { $($field),* })
            }
        }
        impl $crate::codec::rlp::Item for $name {}
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Pair {
        number: u64,
        words: Vec<Vec<u8>>,
    }
    rlp_list!(Pair { number, words });

    fn fault<T: Decode + std::fmt::Debug>(bytes: &[u8]) -> (usize, Fault) {
        let error = T::from_rlp(bytes, 1 << 20).expect_err("malformed");
        (error.at, error.fault)
    }

    #[test]
    fn only_the_shortest_form_is_read() {
        assert_eq!(fault::<u64>(&[0x00]), (0, Fault::NotCanonical));
        assert_eq!(fault::<u64>(&[0x81, 0x05]), (0, Fault::NotCanonical));
        assert_eq!(fault::<u64>(&[0x82, 0x00, 0x05]), (0, Fault::NotCanonical));
        assert_eq!(fault::<Vec<u8>>(&[0xb8, 0x01, 0xff]), (0, Fault::NotCanonical));
        assert_eq!(fault::<Vec<u8>>(&[0xb9, 0x00, 0x38]), (0, Fault::NotCanonical));
        assert_eq!(fault::<u16>(&[0x83, 1, 0, 0]), (0, Fault::TooLarge));
        assert_eq!(fault::<bool>(&[0x02]), (0, Fault::Value("a boolean is 0 or 1")));
        assert_eq!(fault::<Address>(&[0x82, 1, 2]), (0, Fault::Length));
    }

    #[test]
    fn errors_name_their_place() {
        // [1, ["ab", <wrapped 5>]]
        let bytes = [0xc7, 0x01, 0xc5, 0x82, b'a', b'b', 0x81, 0x05];
        assert_eq!(fault::<Pair>(&bytes), (6, Fault::NotCanonical));
        assert_eq!(fault::<Pair>(&bytes[..7]), (0, Fault::Cut));
        assert_eq!(fault::<Pair>(&[0xc1, 0x01]), (2, Fault::Cut));
        assert_eq!(fault::<Pair>(&[0xc3, 0x01, 0xc0, 0x01]), (3, Fault::Surplus));
        assert_eq!(fault::<Pair>(&[0xc2, 0x01, 0xc0, 0x00]), (3, Fault::Surplus));
        assert_eq!(fault::<Pair>(&[0x01]), (0, Fault::NotAList));
        assert_eq!(fault::<u64>(&[0xc0]), (0, Fault::NotAString));
        let limited = u64::from_rlp(&[1, 2, 3], 2).expect_err("too long");
        assert_eq!(limited.fault, Fault::Limit(2));
    }

    #[test]
    fn a_lying_length_costs_nothing() {
        assert_eq!(fault::<Vec<u8>>(&[0xbb, 0xff, 0xff, 0xff, 0xff]), (0, Fault::Cut));
        assert!(Vec::<u8>::from_rlp(&[0xbf; 9], 9).is_err());
        assert!(Pair::from_rlp(&[0xff; 9], 9).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(number: u64, words: Vec<Vec<u8>>) {
            let pair = Pair { number, words };
            let bytes = pair.to_rlp();
            prop_assert_eq!(Pair::from_rlp(&bytes, bytes.len()), Ok(pair));
        }

        #[test]
        fn what_is_read_encodes_to_the_same_bytes(bytes: Vec<u8>) {
            if let Ok(pair) = Pair::from_rlp(&bytes, bytes.len()) {
                prop_assert_eq!(pair.to_rlp(), bytes);
            }
        }
    }
}
