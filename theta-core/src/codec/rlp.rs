//! Consensus bytes: the RLP dialect of the reference (geth's of 2018), strict when decoding.
//!
//! Lengths and integers are canonical, lists have exactly the declared number of items, and every error names the byte
//! it was found at. A reader never looks past the slice it was given and allocates no more than that slice holds, so the
//! caller's limit on the input bounds everything. Nesting is bounded by the types: none decodes itself.

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

    /// Bytes of what may be long in the encoding: room is made for them at once, and headers of lists are as long as they
    /// will be. May be too little or too much.
    fn size_hint(&self) -> usize {
        0
    }

    /// The encoding alone.
    fn to_rlp(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size_hint());
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

    fn size_hint(&self) -> usize {
        let items = self.iter().map(Encode::size_hint).sum();
        header_length(items) + items
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

    /// Whether the next list ends where the input does or before. Says at once of most lengths that lie that they do; of
    /// what is no list it says nothing.
    #[inline]
    pub fn list_fits(&self) -> bool {
        let Some((byte @ 0xc0.., behind)) = self.rest.split_first() else { return true };
        let digits = usize::from(byte.saturating_sub(0xf7));
        match behind.split_at_checked(digits) {
            Some(([], behind)) => usize::from(byte - 0xc0) <= behind.len(),
            Some((length, behind)) => word(length) <= behind.len() as u64,
            None => false,
        }
    }

    /// The payload of an item that is as short as nearly all are, and of the kind that `first` is the least first byte of.
    #[inline]
    fn short(&mut self, first: u8) -> Option<&'a [u8]> {
        let length = usize::from(self.rest.first()?.checked_sub(first)?);
        if length > 55 {
            return None;
        }
        let (item, rest) = self.rest.split_at_checked(1 + length)?;
        let body = &item[1..];
        if first == 0x80 && length == 1 && body[0] <= 0x7f {
            return None;
        }
        self.rest = rest;
        self.at += 1 + length;
        Some(body)
    }

    /// Whether the next item is a list, its payload, and where that begins.
    fn item(&mut self) -> Result<(bool, &'a [u8], usize), DecodeError> {
        let at = self.at;
        let error = |fault| DecodeError { at, fault };
        let (list, header, length) = match *self.rest {
            [] => return Err(error(Fault::Cut)),
            [0..=0x7f, ..] => (false, 0, 1),
            [0x81, 0..=0x7f, ..] => return Err(error(Fault::NotCanonical)),
            [byte @ 0x80..=0xb7, ..] => (false, 1, usize::from(byte - 0x80)),
            [byte @ 0xc0..=0xf7, ..] => (true, 1, usize::from(byte - 0xc0)),
            [byte, ref behind @ ..] => {
                let list = byte >= 0xf8;
                let digits = usize::from(byte - if list { 0xf7 } else { 0xb7 });
                let length = behind.get(..digits).ok_or(error(Fault::Cut))?;
                let known = word(length);
                if length.first() == Some(&0) || known < 56 {
                    return Err(error(Fault::NotCanonical));
                }
                (list, 1 + digits, usize::try_from(known).map_err(|_| error(Fault::TooLarge))?)
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
    #[inline]
    pub fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        if let ([0..=0x7f], rest) = self.rest.split_at_checked(1).unwrap_or_default() {
            let body = &self.rest[..1];
            (self.rest, self.at) = (rest, self.at + 1);
            return Ok(body);
        }
        match self.short(0x80) {
            Some(body) => Ok(body),
            None => self.any_string(),
        }
    }

    fn any_string(&mut self) -> Result<&'a [u8], DecodeError> {
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
    #[inline]
    pub fn list(&mut self) -> Result<Reader<'a>, DecodeError> {
        let at = self.at;
        match self.short(0xc0) {
            Some(rest) => Ok(Reader { rest, at: at + 1 }),
            None => self.any_list(),
        }
    }

    fn any_list(&mut self) -> Result<Reader<'a>, DecodeError> {
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
    encode_list_of(0, out, fill);
}

/// [`encode_list`] of about so many bytes of payload: it is moved to its place unless its header is as long as theirs.
pub fn encode_list_of(size_hint: usize, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let room = header_length(size_hint);
    out.resize(start + room, 0);
    fill(out);
    let payload_length = out.len() - start - room;
    let length = header_length(payload_length);
    if length != room {
        out.resize(start + payload_length + room.max(length), 0);
        out.copy_within(start + room..start + room + payload_length, start + length);
        out.truncate(start + payload_length + length);
    }
    write_header(0xc0, payload_length, &mut out[start..start + length]);
}

/// Writes a header of the length that it has.
fn write_header(short: u8, payload: usize, out: &mut [u8]) {
    match out {
        [byte] => *byte = short + payload as u8,
        [byte, digits @ ..] => {
            *byte = short + 55 + digits.len() as u8;
            let bytes = payload.to_be_bytes();
            digits.copy_from_slice(&bytes[bytes.len() - digits.len()..]);
        }
        [] => {}
    }
}

/// Length of the header of a list with this payload.
const fn header_length(payload: usize) -> usize {
    if payload < 56 { 1 } else { 1 + (usize::BITS - payload.leading_zeros()).div_ceil(8) as usize }
}

/// Appends a list of items.
pub fn encode_items<T: Encode>(items: &[T], out: &mut Vec<u8>) {
    let size_hint = items.iter().map(Encode::size_hint).sum();
    encode_list_of(size_hint, out, |out| items.iter().for_each(|item| item.encode(out)));
}

/// Appends a string.
pub fn encode_string(bytes: &[u8], out: &mut Vec<u8>) {
    match bytes {
        [byte @ 0..=0x7f] => out.push(*byte),
        _ if bytes.len() < 56 => {
            out.push(0x80 + bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
        _ if bytes.len() < 256 => {
            out.reserve(2 + bytes.len());
            out.extend_from_slice(&[0xb8, bytes.len() as u8]);
            out.extend_from_slice(bytes);
        }
        _ => {
            let (mut header, length) = ([0; 9], header_length(bytes.len()));
            write_header(0x80, bytes.len(), &mut header[..length]);
            out.extend_from_slice(&header[..length]);
            out.extend_from_slice(bytes);
        }
    }
}

/// Appends an integer given as big-endian bytes; leading zeros are dropped.
pub fn encode_integer_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    encode_string(&bytes[zeros..], out);
}

/// The number that eight bytes at most say.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
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
            #[inline]
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                // Kinds, and most of what is counted.
                if let [byte @ 1..=0x7f, rest @ ..] = input.rest {
                    (input.rest, input.at) = (rest, input.at + 1);
                    return Ok(*byte as $ty);
                }
                let at = input.position();
                let body = input.integer_bytes()?;
                if body.len() > size_of::<$ty>() {
                    return Err(DecodeError { at, fault: Fault::TooLarge });
                }
                let (high, low) = body.split_at(body.len().saturating_sub(8));
                Ok((u128::from(word(high)) << 64 | u128::from(word(low))) as $ty)
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
        Ok(match body.len() {
            0..=8 => Self::from(word(body)),
            _ => Self::from_bytes_be(body),
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

            fn size_hint(&self) -> usize {
                1 + size_of::<Self>()
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

    fn size_hint(&self) -> usize {
        header_length(self.len()) + self.len()
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
                let size_hint = $crate::codec::rlp::Encode::size_hint(self);
                $crate::codec::rlp::encode_list_of(size_hint, out, |out| {
                    $($crate::codec::rlp::Encode::encode(&self.$field, out);)*
                });
            }

            fn size_hint(&self) -> usize {
                // Nine bytes are the longest header of a list.
                9 $(+ $crate::codec::rlp::Encode::size_hint(&self.$field))*
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

    /// A list of one string of zeros, with room made for the header of another payload.
    fn list_with_hint(hint: usize, length: usize) -> Vec<u8> {
        let mut out = vec![7];
        encode_list_of(hint, &mut out, |out| out.resize(out.len() + length, 0));
        out
    }

    #[test]
    fn headers_are_those_of_another_codec_at_every_length() {
        for length in [0, 1, 2, 54, 55, 56, 57, 255, 256, 257, 65_535, 65_536, 70_000] {
            let bytes = vec![0xaa; length];
            assert_eq!(bytes.to_rlp(), alloy_rlp::encode(bytes.as_slice()), "{length}");
            assert_eq!(bytes.size_hint(), bytes.to_rlp().len(), "{length}");
            let mut expected = vec![7];
            alloy_rlp::Header { list: true, payload_length: length }.encode(&mut expected);
            expected.resize(expected.len() + length, 0);
            for hint in [0, 55, 56, 255, 256, 70_000, 1 << 24] {
                assert_eq!(list_with_hint(hint, length), expected, "{length}, {hint} expected");
            }
        }
    }

    proptest! {
        #[test]
        fn items_end_where_another_codec_ends_them(first: u8, digits in 0_usize..5, behind: Vec<u8>) {
            let bytes = [&[first][..], &vec![0; digits], &behind].concat();
            let mut rest = bytes.as_slice();
            let other = alloy_rlp::Header::decode(&mut rest);
            let other = other.ok().map(|header| (header.list, &rest[..header.payload_length]));
            let reader = Reader::new(&bytes, bytes.len()).expect("within the limit");
            prop_assert_eq!(reader.clone().item().ok().map(|(list, body, _)| (list, body)), other);
            let read = match reader.next_is_list() {
                true => reader.clone().list().map(|list| (true, list.rest())),
                false => reader.clone().string().map(|body| (false, body)),
            };
            if !reader.list_fits() {
                prop_assert!(reader.next_is_list() && read.is_err());
            } else if let (true, Err(error)) = (reader.next_is_list(), &read) {
                prop_assert_eq!(error.fault, Fault::NotCanonical);
            }
            prop_assert_eq!(read.ok(), other);
        }

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
