//! The Merkle-Patricia trie of a state, of contract storage, and of lists.
//!
//! It is geth's plain trie with raw keys of any length, one of which may be a prefix of another, so a branch really
//! carries a value (`store/trie` of the reference; `ledger.md` 4.5). A [`Trie`] is a value: a clone costs one reference
//! count and shares all nodes, a change copies the path it touches. Nodes are read from a [`NodeSource`] when they are
//! needed and hashed once, when the root is asked for; only what changed since is hashed again.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    codec::rlp::{DecodeError, Encode, Fault, Reader, encode_list, encode_string},
    hash::{EMPTY_ROOT, Hash, keccak},
    store::StoreError,
};

/// Why a trie could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrieError {
    /// A node is not there: the state is pruned or was never whole.
    #[error("trie node {0} is missing")]
    Missing(Hash),
    /// A stored node is not the RLP of one.
    #[error("trie node {0} is damaged: {1}")]
    Damaged(Hash, DecodeError),
    /// The store failed.
    #[error("store failed while a trie node was read")]
    Store(#[from] StoreError),
}

/// Why a proof does not show what it claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A node on the path is not in the proof, or the proof belongs to another root.
    #[error("proof lacks node {0}")]
    Missing(Hash),
    /// A node is not the RLP of one.
    #[error("node {0} of the proof is malformed: {1}")]
    Damaged(Hash, DecodeError),
}

/// Where nodes are read from, by hash.
pub trait NodeSource: Send + Sync {
    /// The node, or `None` if there is no such node.
    fn node(&self, hash: &Hash) -> Result<Option<Arc<Node>>, TrieError>;
}

/// A source without nodes, for tries that are built from nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoNodes;

impl NodeSource for NoNodes {
    fn node(&self, _: &Hash) -> Result<Option<Arc<Node>>, TrieError> {
        Ok(None)
    }
}

/// A trie node. Opaque: made by decoding, or by changing a [`Trie`].
#[derive(Debug)]
pub struct Node {
    kind: Kind,
    reference: OnceLock<Reference>,
    stored: AtomicBool,
}

#[derive(Debug, Clone)]
enum Kind {
    Leaf { path: Vec<u8>, value: Vec<u8> },
    Extension { path: Vec<u8>, child: Link },
    Branch { children: Box<[Link; 16]>, value: Option<Vec<u8>> },
}

#[derive(Debug, Clone, Default)]
enum Link {
    #[default]
    Empty,
    Hash(Hash),
    Node(Arc<Node>),
}

impl Link {
    /// What an embedded node points to is in memory too, and small.
    fn shallow(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Hash(hash) => Self::Hash(*hash),
            Self::Node(node) => match node.reference() {
                Reference::Hash(hash) => Self::Hash(*hash),
                Reference::Embedded(_) => Self::Node(Arc::new(node.shallow())),
            },
        }
    }
}

/// How a parent names its child: by hash, or embedded where the encoding is shorter than a hash.
#[derive(Debug, Clone)]
enum Reference {
    Hash(Hash),
    Embedded(Vec<u8>),
}

impl Clone for Node {
    fn clone(&self) -> Self {
        Self::new(self.kind.clone())
    }
}

impl Node {
    const fn new(kind: Kind) -> Self {
        Self { kind, reference: OnceLock::new(), stored: AtomicBool::new(false) }
    }

    /// Decodes a stored node and keeps `hash` as its name.
    pub fn decode(hash: &Hash, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, bytes.len())?;
        let node = Self::read(&mut reader)?;
        reader.finish()?;
        let _ = node.reference.set(Reference::Hash(*hash));
        node.stored.store(true, Ordering::Relaxed);
        Ok(node)
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

    /// The same node as it is read from a store: it names its children by hash and holds none of them in memory.
    pub fn shallow(&self) -> Self {
        let kind = match &self.kind {
            Kind::Leaf { path, value } => Kind::Leaf { path: path.clone(), value: value.clone() },
            Kind::Extension { path, child } => Kind::Extension { path: path.clone(), child: child.shallow() },
            Kind::Branch { children, value } => Kind::Branch {
                children: Box::new(std::array::from_fn(|index| children[index].shallow())),
                value: value.clone(),
            },
        };
        Self { kind, reference: self.reference.clone(), stored: AtomicBool::new(true) }
    }

    /// The node's RLP.
    pub fn encoded(&self) -> Vec<u8> {
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

    fn reference(&self) -> &Reference {
        self.reference.get_or_init(|| {
            let bytes = self.encoded();
            if bytes.len() < 32 { Reference::Embedded(bytes) } else { Reference::Hash(keccak(bytes)) }
        })
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
        Link::Node(node) => match node.reference() {
            Reference::Hash(hash) => write_hash(hash, out),
            Reference::Embedded(bytes) => out.extend(bytes),
        },
    }
}

fn write_hash(hash: &Hash, out: &mut Vec<u8>) {
    out.push(0xa0);
    out.extend_from_slice(hash.as_slice());
}

/// Nibbles of a key, high one first.
fn nibbles(key: &[u8]) -> Vec<u8> {
    key.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect()
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
    path.extend(nibbles(rest));
    Ok((path, first >> 5 == 1))
}

fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn load(source: &dyn NodeSource, hash: &Hash) -> Result<Arc<Node>, TrieError> {
    source.node(hash)?.ok_or(TrieError::Missing(*hash))
}

/// A trie at one root.
#[derive(Clone)]
pub struct Trie {
    root: Link,
    source: Arc<dyn NodeSource>,
    replaced: Vec<Hash>,
}

impl std::fmt::Debug for Trie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie").field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Trie {
    /// A trie without entries.
    pub fn empty(source: Arc<dyn NodeSource>) -> Self {
        Self { root: Link::Empty, source, replaced: Vec::new() }
    }

    /// The trie at a root; the zero hash and [`EMPTY_ROOT`] both mean no entries. Fails if the root is not there.
    pub fn open(root: Hash, source: Arc<dyn NodeSource>) -> Result<Self, TrieError> {
        if root == Hash::ZERO || root == EMPTY_ROOT {
            return Ok(Self::empty(source));
        }
        if source.node(&root)?.is_none() {
            return Err(TrieError::Missing(root));
        }
        Ok(Self { root: Link::Hash(root), source, replaced: Vec::new() })
    }

    fn load(&self, hash: &Hash) -> Result<Arc<Node>, TrieError> {
        load(self.source.as_ref(), hash)
    }

    /// Where nodes are read from.
    pub fn source(&self) -> &Arc<dyn NodeSource> {
        &self.source
    }

    /// The root hash; hashes what changed since it was last asked for.
    pub fn root(&self) -> Hash {
        match &self.root {
            Link::Empty => EMPTY_ROOT,
            Link::Hash(hash) => *hash,
            Link::Node(node) => match node.reference() {
                Reference::Hash(hash) => *hash,
                Reference::Embedded(bytes) => keccak(bytes),
            },
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TrieError> {
        let path = nibbles(key);
        let mut rest = path.as_slice();
        let mut link = self.root.clone();
        loop {
            let node = match link {
                Link::Empty => return Ok(None),
                Link::Hash(hash) => self.load(&hash)?,
                Link::Node(node) => node,
            };
            link = match &node.kind {
                Kind::Leaf { path, value } => return Ok((path == rest).then(|| value.clone())),
                Kind::Extension { path, child } => match rest.strip_prefix(path.as_slice()) {
                    Some(after) => {
                        rest = after;
                        child.clone()
                    }
                    None => return Ok(None),
                },
                Kind::Branch { children, value } => match rest.split_first() {
                    None => return Ok(value.clone()),
                    Some((first, after)) => {
                        rest = after;
                        children[usize::from(*first)].clone()
                    }
                },
            };
        }
    }

    /// Sets a value; an empty one deletes the key, as in the reference.
    pub fn set(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), TrieError> {
        let path = nibbles(key);
        let mut edit = Edit { source: self.source.as_ref(), replaced: &mut self.replaced };
        if value.is_empty() {
            edit.delete(&mut self.root, &path).map(drop)
        } else {
            edit.insert(&mut self.root, &path, value)
        }
    }

    /// Hashes of stored nodes that changes since the trie was opened, or since the last call, put others in the place of.
    /// They still belong to the older root, and may stand elsewhere in this one.
    pub fn take_replaced(&mut self) -> Vec<Hash> {
        std::mem::take(&mut self.replaced)
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), TrieError> {
        self.set(key, Vec::new())
    }

    /// Calls `visit` for every entry whose key begins with `prefix`, children before a branch's own value, as the
    /// reference iterates. `visit` says whether to go on.
    pub fn visit(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TrieError> {
        self.walk(&self.root, &mut Vec::new(), &nibbles(prefix), visit).map(drop)
    }

    fn walk(
        &self,
        link: &Link,
        path: &mut Vec<u8>,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, TrieError> {
        let common = path.len().min(prefix.len());
        if path[..common] != prefix[..common] {
            return Ok(true);
        }
        let here = match link {
            Link::Empty => return Ok(true),
            Link::Hash(hash) => self.load(hash)?,
            Link::Node(node) => node.clone(),
        };
        let length = path.len();
        let mut entry = |path: &[u8], value: &[u8]| {
            if !path.starts_with(prefix) {
                return true;
            }
            let key: Vec<u8> = path.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            visit(&key, value)
        };
        let more = match &here.kind {
            Kind::Leaf { path: own, value } => {
                path.extend(own);
                entry(path, value)
            }
            Kind::Extension { path: own, child } => {
                path.extend(own);
                self.walk(child, path, prefix, visit)?
            }
            Kind::Branch { children, value } => {
                for (index, child) in children.iter().enumerate() {
                    path.push(index as u8);
                    let more = self.walk(child, path, prefix, visit)?;
                    path.pop();
                    if !more {
                        return Ok(false);
                    }
                }
                value.as_ref().is_none_or(|value| {
                    let key: Vec<u8> = path.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
                    !path.starts_with(prefix) || visit(&key, value)
                })
            }
        };
        path.truncate(length);
        Ok(more)
    }

    /// Gives every node that is stored by hash to `visit`, a parent before its children, children in order. What `base`
    /// has at the same place is left out with all below it. `visit` says whether to go on.
    pub fn nodes(
        &self,
        base: Option<&Self>,
        visit: &mut dyn FnMut(Hash, &Node) -> bool,
    ) -> Result<(), TrieError> {
        let cursor = base.map_or(Cursor::Nowhere, |base| Cursor::at(&base.root));
        self.nodes_below(&self.root, base, &cursor, true, visit).map(drop)
    }

    fn nodes_below(
        &self,
        link: &Link,
        base: Option<&Self>,
        cursor: &Cursor,
        is_root: bool,
        visit: &mut dyn FnMut(Hash, &Node) -> bool,
    ) -> Result<bool, TrieError> {
        let (hash, here) = match link {
            Link::Empty => return Ok(true),
            // What stands in the base too is not even loaded.
            Link::Hash(hash) if cursor.is(hash) => return Ok(true),
            Link::Hash(hash) => (Some(*hash), self.load(hash)?),
            Link::Node(node) => match node.reference() {
                Reference::Hash(hash) => (Some(*hash), node.clone()),
                Reference::Embedded(bytes) => (is_root.then(|| keccak(bytes)), node.clone()),
            },
        };
        if let Some(hash) = hash
            && (cursor.is(&hash) || !visit(hash, &here))
        {
            return Ok(cursor.is(&hash));
        }
        let down = |cursor: &Cursor, nibble| match base {
            Some(base) => cursor.down(base, nibble),
            None => Ok(Cursor::Nowhere),
        };
        match &here.kind {
            Kind::Leaf { .. } => Ok(true),
            Kind::Extension { path, child } => {
                let mut below = cursor.clone();
                for nibble in path {
                    below = down(&below, *nibble)?;
                }
                self.nodes_below(child, base, &below, false, visit)
            }
            Kind::Branch { children, .. } => {
                for (nibble, child) in children.iter().enumerate() {
                    if !matches!(child, Link::Empty)
                        && !self.nodes_below(child, base, &down(cursor, nibble as u8)?, false, visit)?
                    {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Gives every node made since the trie was opened or last drained to `write`, by hash. What was given once is not
    /// given again, by this trie or by one that shares it.
    pub fn drain_new(&self, write: &mut dyn FnMut(Hash, &Arc<Node>)) {
        // The root is always stored by hash, even where it is short enough to be embedded.
        if let Link::Node(node) = &self.root
            && let Reference::Embedded(_) = node.reference()
            && !node.stored.swap(true, Ordering::Relaxed)
        {
            write(self.root(), node);
        }
        drain(&self.root, write);
    }

    /// The encoded nodes stored by hash on the path of a key, root first: a proof of its value or absence.
    pub fn prove(&self, key: &[u8]) -> Result<Vec<Vec<u8>>, TrieError> {
        let path = nibbles(key);
        let mut rest = path.as_slice();
        let mut link = self.root.clone();
        let mut proof = Vec::new();
        loop {
            let node = match link {
                Link::Empty => return Ok(proof),
                Link::Hash(hash) => self.load(&hash)?,
                Link::Node(node) => node,
            };
            if proof.is_empty() || matches!(node.reference(), Reference::Hash(_)) {
                proof.push(node.encoded());
            }
            link = match step(&node.kind, &mut rest) {
                Step::Down(link) => link,
                Step::End(_) => return Ok(proof),
            };
        }
    }
}

/// A place in a trie, by the nibbles above it.
#[derive(Clone)]
enum Cursor {
    /// Nothing is there.
    Nowhere,
    /// A node is there.
    Node(Link),
    /// The middle of an extension's path: the rest of it, and what is below.
    Inside(Vec<u8>, Link),
}

impl Cursor {
    fn at(link: &Link) -> Self {
        if matches!(link, Link::Empty) { Self::Nowhere } else { Self::Node(link.clone()) }
    }

    /// Whether the node with this hash is here.
    fn is(&self, hash: &Hash) -> bool {
        match self {
            Self::Node(Link::Hash(here)) => here == hash,
            Self::Node(Link::Node(node)) => {
                matches!(node.reference(), Reference::Hash(here) if here == hash)
            }
            _ => false,
        }
    }

    fn down(&self, trie: &Trie, nibble: u8) -> Result<Self, TrieError> {
        let inside = |path: &[u8], child: &Link| match path.split_first() {
            Some((first, [])) if *first == nibble => Self::at(child),
            Some((first, rest)) if *first == nibble => Self::Inside(rest.to_vec(), child.clone()),
            _ => Self::Nowhere,
        };
        let node = match self {
            Self::Nowhere | Self::Node(Link::Empty) => return Ok(Self::Nowhere),
            Self::Inside(path, child) => return Ok(inside(path, child)),
            Self::Node(Link::Hash(hash)) => trie.load(hash)?,
            Self::Node(Link::Node(node)) => node.clone(),
        };
        Ok(match &node.kind {
            Kind::Leaf { .. } => Self::Nowhere,
            Kind::Extension { path, child } => inside(path, child),
            Kind::Branch { children, .. } => Self::at(&children[usize::from(nibble)]),
        })
    }
}

/// One change of a trie.
struct Edit<'a> {
    source: &'a dyn NodeSource,
    replaced: &'a mut Vec<Hash>,
}

impl Edit<'_> {
    /// Notes that a node is no longer part of the trie. One that was never stored needs no note.
    fn replace(&mut self, node: &Node) {
        if let (true, Some(Reference::Hash(hash))) =
            (node.stored.load(Ordering::Relaxed), node.reference.get())
        {
            self.replaced.push(*hash);
        }
    }

    /// Gives the node at `link`, owned by this trie alone and with its hash forgotten, ready to be changed.
    fn own<'l>(&mut self, link: &'l mut Link) -> Result<&'l mut Kind, TrieError> {
        if let Link::Hash(hash) = link {
            *link = Link::Node(load(self.source, hash)?);
        }
        let Link::Node(node) = link else { unreachable!("callers ask for nodes that are there") };
        self.replace(node);
        // A clone has neither hash nor stored mark; one that nobody shares is reset.
        let node = Arc::make_mut(node);
        node.reference = OnceLock::new();
        *node.stored.get_mut() = false;
        Ok(&mut node.kind)
    }

    fn insert(&mut self, link: &mut Link, path: &[u8], value: Vec<u8>) -> Result<(), TrieError> {
        if matches!(link, Link::Empty) {
            *link = leaf(path.to_vec(), value);
            return Ok(());
        }
        let kind = self.own(link)?;
        match kind {
            Kind::Branch { children, value: own } => match path.split_first() {
                None => *own = Some(value),
                Some((first, rest)) => self.insert(&mut children[usize::from(*first)], rest, value)?,
            },
            Kind::Leaf { path: own, value: old } => {
                if own == path {
                    *old = value;
                    return Ok(());
                }
                let common = shared(own, path);
                let mut children: Box<[Link; 16]> = Box::default();
                let mut at = None;
                place(&mut children, &mut at, &own[common..], std::mem::take(old));
                place(&mut children, &mut at, &path[common..], value);
                let prefix = path[..common].to_vec();
                *kind = extended(prefix, Kind::Branch { children, value: at });
            }
            Kind::Extension { path: own, child } => {
                let common = shared(own, path);
                if common == own.len() {
                    return self.insert(child, &path[common..], value);
                }
                let mut children: Box<[Link; 16]> = Box::default();
                let mut at = None;
                let below = std::mem::take(child);
                children[usize::from(own[common])] = match &own[common + 1..] {
                    [] => below,
                    rest => node(Kind::Extension { path: rest.to_vec(), child: below }),
                };
                place(&mut children, &mut at, &path[common..], value);
                let prefix = path[..common].to_vec();
                *kind = extended(prefix, Kind::Branch { children, value: at });
            }
        }
        Ok(())
    }

    /// Removes a path; says whether anything changed. What was not there leaves every node as it was.
    fn delete(&mut self, link: &mut Link, path: &[u8]) -> Result<bool, TrieError> {
        let here = match link {
            Link::Empty => return Ok(false),
            Link::Hash(hash) => load(self.source, hash)?,
            Link::Node(node) => node.clone(),
        };
        match &here.kind {
            Kind::Leaf { path: own, .. } => {
                if own != path {
                    return Ok(false);
                }
                *link = Link::Empty;
            }
            Kind::Extension { path: own, child } => {
                let Some(rest) = path.strip_prefix(own.as_slice()) else { return Ok(false) };
                let (own, mut child) = (own.clone(), child.clone());
                if !self.delete(&mut child, rest)? {
                    return Ok(false);
                }
                *link = self.join(own, child)?;
            }
            Kind::Branch { children, value } => {
                let (mut children, mut value) = (children.clone(), value.clone());
                match path.split_first() {
                    None if value.is_none() => return Ok(false),
                    None => value = None,
                    Some((first, rest)) => {
                        if !self.delete(&mut children[usize::from(*first)], rest)? {
                            return Ok(false);
                        }
                    }
                }
                let mut left =
                    children.iter_mut().enumerate().filter(|(_, child)| !matches!(child, Link::Empty));
                *link = match (left.next(), left.next(), &mut value) {
                    (None, _, None) => Link::Empty,
                    (None, _, Some(value)) => leaf(Vec::new(), std::mem::take(value)),
                    (Some((index, child)), None, None) => {
                        self.join(vec![index as u8], std::mem::take(child))?
                    }
                    _ => node(Kind::Branch { children, value }),
                };
            }
        }
        self.replace(&here);
        Ok(true)
    }

    /// Puts a path in front of a child: into its own path where it has one, as an extension where it is a branch.
    fn join(&mut self, mut path: Vec<u8>, child: Link) -> Result<Link, TrieError> {
        let below = match &child {
            Link::Empty => return Ok(Link::Empty),
            Link::Hash(hash) => load(self.source, hash)?,
            Link::Node(node) => node.clone(),
        };
        Ok(match &below.kind {
            Kind::Leaf { path: own, value } => {
                self.replace(&below);
                path.extend(own);
                leaf(path, value.clone())
            }
            Kind::Extension { path: own, child } => {
                self.replace(&below);
                path.extend(own);
                node(Kind::Extension { path, child: child.clone() })
            }
            Kind::Branch { .. } => node(Kind::Extension { path, child }),
        })
    }
}

enum Step {
    Down(Link),
    End(Option<Vec<u8>>),
}

fn step(kind: &Kind, rest: &mut &[u8]) -> Step {
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

/// What `nodes` prove about `key` under `root`: its value, or its absence. Needs no store.
pub fn verify(root: &Hash, key: &[u8], nodes: &[Vec<u8>]) -> Result<Option<Vec<u8>>, ProofError> {
    if *root == EMPTY_ROOT {
        return Ok(None);
    }
    let path = nibbles(key);
    let mut rest = path.as_slice();
    let mut link = Link::Hash(*root);
    loop {
        let node = match link {
            Link::Empty => return Ok(None),
            Link::Node(node) => node,
            Link::Hash(hash) => {
                let bytes =
                    nodes.iter().find(|bytes| keccak(bytes) == hash).ok_or(ProofError::Missing(hash))?;
                Arc::new(Node::decode(&hash, bytes).map_err(|error| ProofError::Damaged(hash, error))?)
            }
        };
        link = match step(&node.kind, &mut rest) {
            Step::Down(link) => link,
            Step::End(value) => return Ok(value),
        };
    }
}

fn node(kind: Kind) -> Link {
    Link::Node(Arc::new(Node::new(kind)))
}

fn leaf(path: Vec<u8>, value: Vec<u8>) -> Link {
    node(Kind::Leaf { path, value })
}

fn extended(prefix: Vec<u8>, branch: Kind) -> Kind {
    if prefix.is_empty() { branch } else { Kind::Extension { path: prefix, child: node(branch) } }
}

fn place(children: &mut [Link; 16], own: &mut Option<Vec<u8>>, path: &[u8], value: Vec<u8>) {
    match path.split_first() {
        None => *own = Some(value),
        Some((first, rest)) => children[usize::from(*first)] = leaf(rest.to_vec(), value),
    }
}

fn drain(link: &Link, write: &mut dyn FnMut(Hash, &Arc<Node>)) {
    let Link::Node(node) = link else { return };
    // An embedded node is stored inside its parent, but what it points to may be new.
    if let Reference::Hash(hash) = node.reference() {
        if node.stored.swap(true, Ordering::Relaxed) {
            return;
        }
        write(*hash, node);
    }
    match &node.kind {
        Kind::Leaf { .. } => {}
        Kind::Extension { child, .. } => drain(child, write),
        Kind::Branch { children, .. } => children.iter().for_each(|child| drain(child, write)),
    }
}

/// Root of a list: keys are `rlp(index)`.
pub fn list_root(items: &[Vec<u8>]) -> Hash {
    let mut trie = Trie::empty(Arc::new(NoNodes));
    for (index, item) in items.iter().enumerate() {
        trie.set(&(index as u64).to_rlp(), item.clone()).expect("nothing is read from a source");
    }
    trie.root()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn empty() -> Trie {
        Trie::empty(Arc::new(NoNodes))
    }

    struct Nodes(BTreeMap<Hash, Vec<u8>>);

    impl NodeSource for Nodes {
        fn node(&self, hash: &Hash) -> Result<Option<Arc<Node>>, TrieError> {
            let Some(bytes) = self.0.get(hash) else { return Ok(None) };
            let node = Node::decode(hash, bytes).map_err(|error| TrieError::Damaged(*hash, error))?;
            Ok(Some(Arc::new(node)))
        }
    }

    fn stored(trie: &Trie) -> Trie {
        let mut nodes = BTreeMap::new();
        trie.drain_new(&mut |hash, node| {
            nodes.insert(hash, node.encoded());
        });
        Trie::open(trie.root(), Arc::new(Nodes(nodes))).expect("all nodes are there")
    }

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        // Few symbols, so that keys are often prefixes of one another.
        vec(prop_oneof![Just(0x11_u8), Just(0x12), Just(0x21)], 0..5)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds_in_any_order(
            ops in vec((keys(), vec(any::<u8>(), 0..40)), 1..60),
        ) {
            let (mut trie, mut map) = (empty(), BTreeMap::new());
            for (key, value) in &ops {
                trie.set(key, value.clone()).expect("in memory");
                if value.is_empty() { map.remove(key); } else { map.insert(key.clone(), value.clone()); }
            }
            let mut fresh = empty();
            for (key, value) in map.iter().rev() {
                fresh.set(key, value.clone()).expect("in memory");
            }
            prop_assert_eq!(trie.root(), fresh.root());
            let reopened = if map.is_empty() { empty() } else { stored(&trie) };
            let mut seen = BTreeMap::new();
            reopened.visit(&[], &mut |key, value| { seen.insert(key.to_vec(), value.to_vec()); true }).expect("whole");
            prop_assert_eq!(&seen, &map);
            for (key, _) in &ops {
                prop_assert_eq!(reopened.get(key).expect("whole"), map.get(key).cloned());
                let proof = reopened.prove(key).expect("whole");
                prop_assert_eq!(verify(&trie.root(), key, &proof), Ok(map.get(key).cloned()));
            }
            let mut walked = BTreeMap::new();
            reopened.nodes(None, &mut |hash, node| { walked.insert(hash, node.encoded()); true }).expect("whole");
            let again = if map.is_empty() { empty() } else {
                Trie::open(trie.root(), Arc::new(Nodes(walked))).expect("the root is there")
            };
            again.visit(&[], &mut |key, value| seen.remove(key).as_deref() == Some(value)).expect("all nodes were given");
            prop_assert!(seen.is_empty());
            let mut prefixed = Vec::new();
            reopened.visit(&[0x11], &mut |key, _| { prefixed.push(key.to_vec()); true }).expect("whole");
            prefixed.sort();
            let expected: Vec<_> = map.keys().filter(|key| key.starts_with(&[0x11])).cloned().collect();
            prop_assert_eq!(prefixed, expected);
        }

        #[test]
        fn changing_a_stored_trie_equals_changing_it_in_memory(
            first in vec((keys(), vec(any::<u8>(), 1..40)), 1..30),
            second in vec((keys(), vec(any::<u8>(), 0..40)), 1..30),
        ) {
            let mut memory = empty();
            for (key, value) in first {
                memory.set(&key, value).expect("in memory");
            }
            let mut disk = stored(&memory);
            let before = memory.clone();
            let old_root = memory.root();
            for (key, value) in second {
                memory.set(&key, value.clone()).expect("in memory");
                disk.set(&key, value).expect("whole");
            }
            prop_assert_eq!(memory.root(), disk.root());
            prop_assert_eq!(before.root(), old_root, "a clone is not touched by later changes");
            // The old nodes and the difference make the new trie.
            let mut nodes = BTreeMap::new();
            before.nodes(None, &mut |hash, node| { nodes.insert(hash, node.encoded()); true }).expect("whole");
            disk.nodes(Some(&before), &mut |hash, node| { nodes.insert(hash, node.encoded()); true }).expect("whole");
            let root = disk.root();
            let mut expected = Vec::new();
            disk.visit(&[], &mut |key, value| { expected.push((key.to_vec(), value.to_vec())); true }).expect("whole");
            let joined = Trie::open(root, Arc::new(Nodes(nodes))).expect("the root is there");
            let mut found = Vec::new();
            joined.visit(&[], &mut |key, value| { found.push((key.to_vec(), value.to_vec())); true }).expect("whole");
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_proof_of_another_root_or_with_a_flipped_byte_proves_nothing() {
        let mut trie = empty();
        for index in 0_u32..200 {
            trie.set(&index.to_be_bytes(), vec![7; 40]).expect("in memory");
        }
        let proof = trie.prove(&5_u32.to_be_bytes()).expect("in memory");
        assert!(proof.len() > 1);
        assert!(verify(&keccak("other"), &5_u32.to_be_bytes(), &proof).is_err());
        for node in 0..proof.len() {
            for byte in 0..proof[node].len() {
                let mut bad = proof.clone();
                bad[node][byte] ^= 1;
                assert!(verify(&trie.root(), &5_u32.to_be_bytes(), &bad).is_err());
            }
        }
    }

    #[test]
    fn a_shallow_node_holds_no_other_and_says_the_same() {
        let mut trie = empty();
        for index in 0_u32..1000 {
            trie.set(&index.to_be_bytes(), index.to_be_bytes().repeat(10)).expect("in memory");
        }
        let root = trie.root();
        let mut nodes = BTreeMap::new();
        trie.drain_new(&mut |hash, node| {
            let shallow = node.shallow();
            assert_eq!(shallow.encoded(), node.encoded());
            nodes.insert(hash, Arc::new(shallow));
        });
        drop(trie);
        let lone = nodes.values().all(|node| Arc::strong_count(node) == 1);
        assert!(lone, "only the map holds them");
        struct Kept(BTreeMap<Hash, Arc<Node>>);
        impl NodeSource for Kept {
            fn node(&self, hash: &Hash) -> Result<Option<Arc<Node>>, TrieError> {
                Ok(self.0.get(hash).cloned())
            }
        }
        let count = nodes.len();
        let mut trie = Trie::open(root, Arc::new(Kept(nodes))).expect("the root is there");
        trie.set(&5_u32.to_be_bytes(), vec![8; 40]).expect("all nodes are there");
        let (mut new, replaced) = (0, trie.take_replaced());
        trie.root();
        trie.drain_new(&mut |_, _| new += 1);
        assert_eq!(replaced.len(), new, "one path for another");
        assert!(new <= 8 && count > 1000);
        assert_eq!(replaced[0], root);
        trie.remove(&6_u32.to_be_bytes()).expect("all nodes are there");
        trie.remove(&6_u32.to_be_bytes()).expect("all nodes are there");
        let mut replaced = trie.take_replaced();
        replaced.sort_unstable();
        replaced.dedup();
        assert!(!replaced.contains(&root), "that one was replaced before");
        assert!((2..=8).contains(&replaced.len()), "{}", replaced.len());
    }

    #[test]
    fn only_new_nodes_are_drained() {
        let mut trie = empty();
        for index in 0_u32..1000 {
            trie.set(&index.to_be_bytes(), vec![7; 40]).expect("in memory");
        }
        let count = |trie: &Trie| {
            let mut count = 0;
            trie.drain_new(&mut |_, _| count += 1);
            count
        };
        assert!(count(&trie) > 1000);
        assert_eq!(count(&trie), 0);
        let mut next = trie.clone();
        next.set(&5_u32.to_be_bytes(), vec![8; 40]).expect("in memory");
        let changed = count(&next);
        assert!((2..=8).contains(&changed), "one path, not {changed} nodes");
    }
}
