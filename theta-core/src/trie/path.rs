//! Paths of nibbles, in the bytes they were given in.

/// Some nibbles of a byte string, high ones first.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a> {
    bytes: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Nibbles<'a> {
    /// All of a key's.
    pub(super) const fn of_key(key: &'a [u8]) -> Self {
        Self { bytes: key, start: 0, end: key.len() * 2 }
    }

    /// Those of a hex-prefix path, and whether it is a leaf's.
    pub(super) const fn of_compact(bytes: &'a [u8]) -> (Self, bool) {
        let odd = bytes[0] & 0x10 != 0;
        (Self { bytes, start: if odd { 1 } else { 2 }, end: bytes.len() * 2 }, bytes[0] & 0x20 != 0)
    }

    pub(super) const fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The nibble at a place that is there.
    pub(super) const fn at(&self, index: usize) -> u8 {
        let index = self.start + index;
        let byte = self.bytes[index / 2];
        if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }

    pub(super) fn first(&self) -> Option<u8> {
        (!self.is_empty()).then(|| self.at(0))
    }

    /// Without the first `count`, of which there are as many.
    pub(super) const fn skip(&self, count: usize) -> Self {
        Self { start: self.start + count, ..*self }
    }

    /// The first `count`, of which there are as many.
    pub(super) const fn take(&self, count: usize) -> Self {
        Self { end: self.start + count, ..*self }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u8> + use<'a> {
        let path = *self;
        (0..path.len()).map(move |index| path.at(index))
    }

    /// Nibbles that both begin with.
    pub(super) fn common(&self, other: &Self) -> usize {
        self.iter().zip(other.iter()).take_while(|(a, b)| a == b).count()
    }

    pub(super) fn starts_with(&self, prefix: &Self) -> bool {
        self.common(prefix) == prefix.len()
    }

    /// Hex-prefix form: flag 2 marks a leaf, flag 1 an odd number of nibbles.
    pub(super) fn compact(&self, leaf: bool) -> Vec<u8> {
        let odd = self.len() % 2;
        if !(self.start + odd).is_multiple_of(2) {
            return super::compact(&self.iter().collect::<Vec<_>>(), leaf);
        }
        let flag = (u8::from(leaf) * 2 + odd as u8) << 4;
        let mut out = Vec::with_capacity(self.len() / 2 + 1);
        out.push(if odd == 1 { flag | self.at(0) } else { flag });
        out.extend_from_slice(&self.bytes[(self.start + odd) / 2..self.end / 2]);
        out
    }
}

impl PartialEq for Nibbles<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.starts_with(other)
    }
}

impl Ord for Nibbles<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.iter().cmp(other.iter())
    }
}

impl Eq for Nibbles<'_> {}

impl PartialOrd for Nibbles<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Hex-prefix form of a path of nibbles: flag 2 marks a leaf, flag 1 an odd number of nibbles.
pub fn compact(path: &[u8], leaf: bool) -> Vec<u8> {
    let odd = path.len() % 2;
    let flag = (u8::from(leaf) * 2 + odd as u8) << 4;
    let mut out = Vec::with_capacity(path.len() / 2 + 1);
    out.push(if odd == 1 { flag | path[0] } else { flag });
    out.extend(path[odd..].chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    out
}
