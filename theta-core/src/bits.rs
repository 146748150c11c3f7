//! Who of a row has signed: one bit for each.

use crate::codec::rlp::{Decode, DecodeError, Encode, Fault, Item, Reader, encode_list};

/// A row is never longer: what a message of 64 KiB can name.
const MAX_LENGTH: u32 = 1 << 18;

/// Bits of a fixed length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    length: u32,
    words: Vec<u64>,
}

impl Bits {
    /// None of so many, 2^18 at most.
    pub fn new(length: usize) -> Self {
        let length = u32::try_from(length).unwrap_or(MAX_LENGTH).min(MAX_LENGTH);
        Self { length, words: vec![0; length.div_ceil(64) as usize] }
    }

    /// How many there are, set or not.
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether there are none to be set.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many are set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether one is set; beyond the end none is.
    pub fn get(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Sets one; beyond the end does nothing.
    pub fn set(&mut self, index: usize) {
        if index < self.len() {
            self.words[index / 64] |= 1 << (index % 64);
        }
    }

    /// Those that are set, ascending.
    pub fn ones(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|index| self.get(*index))
    }

    /// Whether none is set in both; runs of different lengths are not compared.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.length == other.length && self.words.iter().zip(&other.words).all(|(a, b)| a & b == 0)
    }

    /// Sets what is set in a run that begins at `first`.
    pub fn join(&mut self, first: usize, other: &Self) {
        if first == 0 && self.length == other.length {
            self.words.iter_mut().zip(&other.words).for_each(|(own, other)| *own |= other);
        } else {
            other.ones().for_each(|index| self.set(first + index));
        }
    }

    /// Whether nothing is set in the run of `length` from `first` on.
    pub fn is_clear(&self, first: usize, length: usize) -> bool {
        (first..first + length).all(|index| !self.get(index))
    }
}

impl Encode for Bits {
    /// `[length, bytes]`, the lowest bit of the first byte first.
    fn encode(&self, out: &mut Vec<u8>) {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        let bytes: Vec<u8> = bytes.take(self.len().div_ceil(8)).collect();
        encode_list(out, |out| {
            self.length.encode(out);
            bytes.encode(out);
        });
    }
}

impl Decode for Bits {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let wrong = list.error(Fault::Value("bits do not fit their length"));
        let length: u32 = list.read()?;
        let bytes: Vec<u8> = list.read()?;
        list.finish()?;
        if length > MAX_LENGTH || bytes.len() != length.div_ceil(8) as usize {
            return Err(wrong);
        }
        let mut bits = Self::new(length as usize);
        for (index, byte) in bytes.iter().enumerate() {
            bits.words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        let surplus =
            bits.words.last().is_some_and(|last| !length.is_multiple_of(64) && last >> (length % 64) != 0);
        if surplus { Err(wrong) } else { Ok(bits) }
    }
}

impl Item for Bits {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_back_and_surplus_ones_refused() {
        for length in [0, 1, 7, 8, 63, 64, 65, 200] {
            let mut bits = Bits::new(length);
            (0..length).step_by(3).for_each(|index| bits.set(index));
            assert_eq!(bits.count(), length.div_ceil(3));
            assert_eq!(Bits::from_rlp(&bits.to_rlp(), 1 << 10), Ok(bits));
        }
        // Three bits in a byte with the fourth set, and a byte too many.
        for bytes in [&[0xc2, 0x03, 0x08][..], &[0xc4, 0x03, 0x82, 0x01, 0x00]] {
            assert!(Bits::from_rlp(bytes, 1 << 10).is_err(), "{bytes:?}");
        }
        assert!(Bits::from_rlp(&[0xc2, 0x03, 0x07], 1 << 10).is_ok());
    }

    #[test]
    fn runs_are_joined_where_they_begin() {
        let mut all = Bits::new(100);
        let mut run = Bits::new(10);
        run.set(0);
        run.set(9);
        run.set(10);
        all.join(60, &run);
        assert_eq!(all.ones().collect::<Vec<_>>(), [60, 69]);
        assert!(all.is_clear(0, 60) && !all.is_clear(60, 10) && all.is_clear(70, 30));
    }
}
