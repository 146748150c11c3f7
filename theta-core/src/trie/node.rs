//! One node: its form, its RLP, and how a parent names it.

use std::sync::{Arc, OnceLock};

use crate::{
    codec::rlp::{DecodeError, Fault, Reader, encode_list, encode_string},
    hash::{Hash, keccak},
};

/// A trie node. Opaque: made by decoding, or by changing a [`Trie`](super::Trie).
#[derive(Debug)]
pub struct Node {
    pub(super) kind: Kind,
    name: OnceLock<Name>,
    stored: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Leaf { path: Vec<u8>, value: Vec<u8> },
    Extension { path: Vec<u8>, child: Link },
    Branch { children: Box<[Link; 16]>, value: Option<Vec<u8>> },
}

#[derive(Debug, Clone, Default)]
pub(super) enum Link {
    #[default]
    Empty,
    Hash(Hash),
    Node(Arc<Node>),
}

/// How a parent names its child: by hash, or by the encoding itself where that is shorter than a hash.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// None where the node stands inside its parent.
    pub(super) hash: Option<Hash>,
    /// The encoding, hashed once and written as it is; given away when the node is.
    pub(super) encoding: Vec<u8>,
}

impl Clone for Node {
    /// A copy that is to be changed: it has no name and was never stored.
    fn clone(&self) -> Self {
        Self::new(self.kind.clone())
    }
}

impl Node {
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind, name: OnceLock::new(), stored: false }
    }

    /// Decodes a stored node and keeps `hash` as its name.
    pub fn decode(hash: &Hash, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        let kind = Self::read(&mut reader)?.kind;
        reader.finish()?;
        Ok(Self { kind, name: Name { hash: Some(*hash), encoding: Vec::new() }.into(), stored: true })
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let error = input.error(Fault::Value("a trie node has 2 or 17 items"));
        let mut list = input.list()?;
        let mut count = list.clone();
        let mut items = 0;
        while !count.is_empty() {
            count.raw_item()?;
            items += 1;
        }
        let kind = match items {
            2 => {
                let (path, leaf) = decode_path(&mut list)?;
                if leaf {
                    Kind::Leaf { path, value: list.string()?.to_vec() }
                } else {
                    Kind::Extension { path, child: read_link(&mut list)? }
                }
            }
            17 => {
                let mut children: Box<[Link; 16]> = Box::default();
                for child in children.iter_mut() {
                    *child = read_link(&mut list)?;
                }
                let value = list.string()?;
                Kind::Branch { children, value: (!value.is_empty()).then(|| value.to_vec()) }
            }
            _ => return Err(error),
        };
        Ok(Self::new(kind))
    }

    /// Whether it is a leaf: one account's or one record's, while branches and extensions are shared by many.
    pub const fn is_leaf(&self) -> bool {
        matches!(self.kind, Kind::Leaf { .. })
    }

    /// The value of a leaf.
    pub fn leaf(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Leaf { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The node's RLP.
    pub fn encoded(&self) -> Vec<u8> {
        match self.name.get() {
            Some(name) if !name.encoding.is_empty() => name.encoding.clone(),
            _ => self.encode(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        // A branch of sixteen hashes has 532 bytes.
        let mut out = Vec::with_capacity(if self.is_leaf() { 192 } else { 544 });
        encode_list(&mut out, |out| match &self.kind {
            Kind::Leaf { path, value } => {
                encode_string(&compact(path, true), out);
                encode_string(value, out);
            }
            Kind::Extension { path, child } => {
                encode_string(&compact(path, false), out);
                write_link(child, out);
            }
            Kind::Branch { children, value } => {
                children.iter().for_each(|child| write_link(child, out));
                encode_string(value.as_deref().unwrap_or_default(), out);
            }
        });
        out
    }

    /// Its name, found out once.
    pub(super) fn name(&self) -> &Name {
        self.name.get_or_init(|| {
            let encoding = self.encode();
            Name { hash: (encoding.len() >= 32).then(|| keccak(&encoding)), encoding }
        })
    }

    /// Its hash where it was stored under one.
    pub(super) fn stored_hash(&self) -> Option<Hash> {
        self.name.get().filter(|_| self.stored)?.hash
    }

    /// The kind, to be changed: what the node was called no longer holds.
    pub(super) fn change(self: &mut Arc<Self>) -> &mut Kind {
        let node = Arc::make_mut(self);
        node.name = OnceLock::new();
        node.stored = false;
        &mut node.kind
    }
}

impl Link {
    /// Gives a new node and those below it out, each with its hash and encoding, and keeps their hashes. What stands
    /// inside a parent is too short to name another node by hash.
    pub(super) fn take_new(&mut self, give: &mut dyn FnMut(Hash, Arc<Node>, Vec<u8>)) {
        let Self::Node(node) = self else { return };
        let Some(hash) = node.name().hash else { return };
        let Self::Node(node) = std::mem::replace(self, Self::Hash(hash)) else { return };
        if !node.stored {
            node.give(hash, give);
        }
    }
}

impl Node {
    /// Gives the node out under a hash, which is its own or a root's, and the new ones below it.
    pub(super) fn give(mut self: Arc<Self>, hash: Hash, give: &mut dyn FnMut(Hash, Arc<Self>, Vec<u8>)) {
        let encoding = self.encoded();
        // Another trie may share it.
        let node = Arc::make_mut(&mut self);
        match &mut node.kind {
            Kind::Leaf { .. } => {}
            Kind::Extension { child, .. } => child.take_new(give),
            Kind::Branch { children, .. } => children.iter_mut().for_each(|child| child.take_new(give)),
        }
        node.name = Name { hash: Some(hash), encoding: Vec::new() }.into();
        node.stored = true;
        give(hash, self, encoding);
    }
}

/// Where a key leads from a node.
pub(super) enum Step {
    /// Further down.
    Down(Link),
    /// To its value, or to nothing.
    End(Option<Vec<u8>>),
}

/// Follows a key from a node; `rest` is what is left of its path, before and after.
pub(super) fn step(kind: &Kind, rest: &mut &[u8]) -> Step {
    match kind {
        Kind::Leaf { path, value } => Step::End((path == rest).then(|| value.clone())),
        Kind::Extension { path, child } => match rest.strip_prefix(path.as_slice()) {
            Some(after) => {
                *rest = after;
                Step::Down(child.clone())
            }
            None => Step::End(None),
        },
        Kind::Branch { children, value } => match rest.split_first() {
            None => Step::End(value.clone()),
            Some((first, after)) => {
                *rest = after;
                Step::Down(children[usize::from(*first)].clone())
            }
        },
    }
}

fn read_link(input: &mut Reader<'_>) -> Result<Link, DecodeError> {
    if input.next_is_list() {
        return Node::read(input).map(|node| Link::Node(Arc::new(node)));
    }
    let error = input.error(Fault::Length);
    match input.string()? {
        [] => Ok(Link::Empty),
        bytes => Hash::try_from(bytes).map(Link::Hash).map_err(|_| error),
    }
}

fn write_link(link: &Link, out: &mut Vec<u8>) {
    match link {
        Link::Empty => out.push(0x80),
        Link::Hash(hash) => write_hash(hash, out),
        Link::Node(node) => match node.name() {
            Name { hash: Some(hash), .. } => write_hash(hash, out),
            Name { encoding, .. } => out.extend(encoding),
        },
    }
}

fn write_hash(hash: &Hash, out: &mut Vec<u8>) {
    out.push(0xa0);
    out.extend_from_slice(hash.as_slice());
}

/// Nibbles of a key, high one first.
pub(super) fn nibbles(key: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(key.len() * 2);
    path.extend(key.iter().flat_map(|byte| [byte >> 4, byte & 15]));
    path
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

fn decode_path(input: &mut Reader<'_>) -> Result<(Vec<u8>, bool), DecodeError> {
    let error = input.error(Fault::Value("not a hex-prefix path"));
    let (first, rest) = input.string()?.split_first().ok_or(error)?;
    let mut path = Vec::with_capacity(rest.len() * 2 + 1);
    match first >> 4 {
        0 | 2 if first & 15 == 0 => {}
        1 | 3 => path.push(first & 15),
        _ => return Err(error),
    }
    path.extend(rest.iter().flat_map(|byte| [byte >> 4, byte & 15]));
    Ok((path, first >> 5 == 1))
}
