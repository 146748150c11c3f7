//! One node: its RLP, read in place, and how a parent names it.

use std::sync::Arc;

use super::path::Nibbles;
use crate::{
    codec::rlp::{DecodeError, Fault, Reader, encode_list, encode_string},
    hash::{Hash, keccak},
};

/// A trie node: its RLP, whose form is known to be right. A clone costs a reference count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(Arc<[u8]>);

impl Node {
    /// A stored node. Whether these bytes belong to a hash is the caller's to know.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        check(&mut reader)?;
        reader.finish()?;
        Ok(Self(bytes.into()))
    }

    /// Its RLP.
    pub fn encoding(&self) -> &[u8] {
        &self.0
    }

    /// The value of a leaf.
    pub fn leaf(&self) -> Option<&[u8]> {
        match View::of(&self.0) {
            View::Leaf { value, .. } => Some(value),
            _ => None,
        }
    }
}

/// Reads one node: 2 or 17 items, paths in their form, children that are hashes or nodes shorter than one.
fn check(input: &mut Reader<'_>) -> Result<(), DecodeError> {
    let error = input.error(Fault::Value("a trie node has 2 or 17 items"));
    let mut list = input.list()?;
    let mut pair = list.clone();
    pair.raw_item()?;
    pair.raw_item()?;
    if pair.is_empty() {
        let error = list.error(Fault::Value("not a hex-prefix path"));
        let path = list.string()?;
        return match path.first().ok_or(error)? {
            0x00 | 0x10..=0x1f => check_child(&mut list),
            0x20 | 0x30..=0x3f => list.string().map(drop),
            _ => Err(error),
        };
    }
    for index in 0..17 {
        if list.is_empty() {
            return Err(error);
        }
        if index < 16 { check_child(&mut list)? } else { list.string().map(drop)? }
    }
    list.finish().map_err(|_| error)
}

/// Reads how a node names a child. What stands inside its parent is shorter than a hash, which bounds the depth of this.
fn check_child(input: &mut Reader<'_>) -> Result<(), DecodeError> {
    let error = input.error(Fault::Length);
    if input.next_is_list() {
        let inside = input.clone().raw_item()?;
        return if inside.len() < 32 { check(input) } else { Err(error) };
    }
    match input.string()?.len() {
        0 | 32 => Ok(()),
        _ => Err(error),
    }
}

/// A node's parts, in its bytes.
#[derive(Clone, Copy)]
pub(super) enum View<'a> {
    Leaf { path: Nibbles<'a>, value: &'a [u8] },
    Extension { path: Nibbles<'a>, child: &'a [u8] },
    Branch(Branch<'a>),
}

/// The items of a branch.
#[derive(Clone, Copy)]
pub(super) struct Branch<'a>(&'a [u8]);

/// What an item that names a child says.
pub(super) enum Child<'a> {
    Empty,
    Hash(Hash),
    /// The child's RLP.
    Inside(&'a [u8]),
}

/// Where a key leads from a stored node.
pub(super) enum Step<'a> {
    /// To another stored node.
    Down(Hash),
    /// To its value, or to nothing.
    End(Option<&'a [u8]>),
}

/// Sizes of the header and of the whole of the item that RLP of the right form begins with.
#[inline]
fn measure(rlp: &[u8]) -> (usize, usize) {
    match rlp[0] {
        // Nearly all there are.
        0xa0 => (1, 33),
        0x80 => (1, 1),
        _ => measure_other(rlp),
    }
}

fn measure_other(rlp: &[u8]) -> (usize, usize) {
    let long = |bytes: usize| {
        let length = rlp[1..=bytes].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        (1 + bytes, 1 + bytes + length)
    };
    match rlp[0] {
        0..=0x7f => (0, 1),
        byte @ 0x80..=0xb7 => (1, 1 + usize::from(byte - 0x80)),
        byte @ 0xb8..=0xbf => long(usize::from(byte - 0xb7)),
        byte @ 0xc0..=0xf7 => (1, 1 + usize::from(byte - 0xc0)),
        byte @ 0xf8..=0xff => long(usize::from(byte - 0xf7)),
    }
}

/// The first item, undecoded, and what follows.
fn split(rlp: &[u8]) -> (&[u8], &[u8]) {
    rlp.split_at(measure(rlp).1)
}

fn payload(item: &[u8]) -> &[u8] {
    &item[measure(item).0..]
}

impl<'a> View<'a> {
    /// The parts of a node whose form was checked, or that this module encoded.
    pub(super) fn of(rlp: &'a [u8]) -> Self {
        let items = payload(rlp);
        let (first, rest) = split(items);
        let (second, rest) = split(rest);
        if !rest.is_empty() {
            return Self::Branch(Branch(items));
        }
        let (path, leaf) = Nibbles::of_compact(payload(first));
        if leaf {
            Self::Leaf { path, value: payload(second) }
        } else {
            Self::Extension { path, child: second }
        }
    }
}

impl<'a> Branch<'a> {
    /// The items that name its children, and the value at its own path, which may be empty.
    pub(super) fn parts(self) -> ([&'a [u8]; 16], &'a [u8]) {
        let mut rest = self.0;
        let children = std::array::from_fn(|_| {
            let (item, after) = split(rest);
            rest = after;
            item
        });
        (children, payload(rest))
    }

    fn item(self, index: u8) -> &'a [u8] {
        let mut rest = self.0;
        for _ in 0..index {
            rest = split(rest).1;
        }
        split(rest).0
    }
}

impl<'a> Child<'a> {
    pub(super) fn of(item: &'a [u8]) -> Self {
        match item[0] {
            0x80 => Self::Empty,
            0xa0 => Self::Hash(Hash::from_slice(&item[1..])),
            _ => Self::Inside(item),
        }
    }
}

/// Follows a key through a stored node and those that stand inside it; `rest` is what is left of its path.
pub(super) fn step<'a>(node: &'a Node, rest: &mut Nibbles<'_>) -> Step<'a> {
    let mut rlp = node.encoding();
    loop {
        let child = match View::of(rlp) {
            View::Leaf { path, value } => return Step::End((path == *rest).then_some(value)),
            View::Extension { path, child } => {
                if !rest.starts_with(&path) {
                    return Step::End(None);
                }
                *rest = rest.skip(path.len());
                child
            }
            View::Branch(branch) => match rest.first() {
                None => return Step::End(Some(payload(branch.item(16))).filter(|value| !value.is_empty())),
                Some(first) => {
                    *rest = rest.skip(1);
                    branch.item(first)
                }
            },
        };
        match Child::of(child) {
            Child::Empty => return Step::End(None),
            Child::Hash(hash) => return Step::Down(hash),
            Child::Inside(inside) => rlp = inside,
        }
    }
}

/// The item by which a parent names a child: a hash, or the child's own RLP where that is shorter.
#[derive(Clone, Copy)]
pub(super) struct Name {
    length: u8,
    bytes: [u8; 33],
}

impl Name {
    pub(super) const EMPTY: Self = {
        let mut bytes = [0; 33];
        bytes[0] = 0x80;
        Self { length: 1, bytes }
    };

    pub(super) fn of_hash(hash: &Hash) -> Self {
        let mut bytes = [0xa0; 33];
        bytes[1..].copy_from_slice(hash.as_slice());
        Self { length: 33, bytes }
    }

    /// An item of a node.
    pub(super) fn of_item(item: &[u8]) -> Self {
        let mut bytes = [0; 33];
        bytes[..item.len()].copy_from_slice(item);
        Self { length: item.len() as u8, bytes }
    }

    pub(super) fn item(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub(super) fn hash(&self) -> Option<Hash> {
        match Child::of(self.item()) {
            Child::Hash(hash) => Some(hash),
            _ => None,
        }
    }
}

/// A node that was just made, and has no place yet.
pub(super) struct Fresh {
    pub(super) node: Node,
    name: Option<Name>,
}

impl Fresh {
    /// Encodes the items that `fill` writes, by way of a buffer that is used again and again.
    fn new(buffer: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        buffer.clear();
        encode_list(buffer, fill);
        Self { node: Node(buffer.as_slice().into()), name: None }
    }

    pub(super) fn leaf(buffer: &mut Vec<u8>, path: &[Nibbles<'_>], value: &[u8]) -> Self {
        Self::new(buffer, |out| {
            write_path(path, true, out);
            encode_string(value, out);
        })
    }

    pub(super) fn extension(buffer: &mut Vec<u8>, path: &[Nibbles<'_>], child: &[u8]) -> Self {
        Self::new(buffer, |out| {
            write_path(path, false, out);
            out.extend_from_slice(child);
        })
    }

    pub(super) fn branch<'i>(
        buffer: &mut Vec<u8>,
        children: impl Iterator<Item = &'i [u8]>,
        value: &[u8],
    ) -> Self {
        Self::new(buffer, |out| {
            children.for_each(|child| out.extend_from_slice(child));
            encode_string(value, out);
        })
    }

    /// A branch as it was, but for some of its items, which are given with what takes their place. `None` where one of those
    /// has another length.
    pub(super) fn patched<'i>(rlp: &[u8], changes: impl Iterator<Item = (&'i [u8], Name)>) -> Option<Self> {
        let mut encoding: Arc<[u8]> = rlp.into();
        let bytes = Arc::get_mut(&mut encoding).expect("just made");
        for (old, new) in changes {
            if old.len() != new.item().len() {
                return None;
            }
            let at = old.as_ptr().addr() - rlp.as_ptr().addr();
            bytes[at..at + old.len()].copy_from_slice(new.item());
        }
        Some(Self { node: Node(encoding), name: None })
    }

    /// How a parent names it; hashed once.
    pub(super) fn name(&mut self) -> Name {
        *self.name.get_or_insert_with(|| {
            let rlp = self.node.encoding();
            if rlp.len() < 32 { Name::of_item(rlp) } else { Name::of_hash(&keccak(rlp)) }
        })
    }

    /// Its hash, also where a parent would not name it so.
    pub(super) fn hash(&mut self) -> Hash {
        self.name().hash().unwrap_or_else(|| keccak(self.node.encoding()))
    }
}

fn write_path(parts: &[Nibbles<'_>], leaf: bool, out: &mut Vec<u8>) {
    let bytes = match parts {
        [only] => only.compact(leaf),
        _ => super::compact(&parts.iter().flat_map(Nibbles::iter).collect::<Vec<_>>(), leaf),
    };
    encode_string(&bytes, out);
}
