//! Ways through a whole trie.

use super::{Kind, Link, Node, Trie, TrieError, nibbles};
use crate::hash::{Hash, keccak};

impl Trie {
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
            Link::Node(node) => {
                let name = node.name();
                (name.hash.or_else(|| is_root.then(|| keccak(&name.encoding))), node.clone())
            }
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
            Self::Node(Link::Node(node)) => node.name().hash.as_ref() == Some(hash),
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
