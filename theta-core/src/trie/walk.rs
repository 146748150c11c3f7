//! Ways through a whole trie.

use super::{
    Node, Trie, TrieError,
    node::{Child, Name, View},
    path::Nibbles,
};
use crate::hash::{EMPTY_ROOT, Hash};

impl Trie {
    /// Calls `visit` for every entry whose key begins with `prefix`, children before a branch's own value, as the
    /// reference iterates. `visit` says whether to go on.
    pub fn visit(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TrieError> {
        let prefix: Vec<u8> = Nibbles::of_key(prefix).iter().collect();
        self.walk(self.top().item(), &mut Vec::new(), &prefix, visit).map(drop)
    }

    fn top(&self) -> Name {
        if self.root == EMPTY_ROOT { Name::EMPTY } else { Name::of_hash(&self.root) }
    }

    fn walk(
        &self,
        item: &[u8],
        path: &mut Vec<u8>,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, TrieError> {
        let common = path.len().min(prefix.len());
        if path[..common] != prefix[..common] {
            return Ok(true);
        }
        let node;
        let here = match Child::of(item) {
            Child::Empty => return Ok(true),
            Child::Inside(rlp) => rlp,
            Child::Hash(hash) => {
                node = self.load(&hash)?;
                node.encoding()
            }
        };
        let length = path.len();
        let mut entry = |path: &[u8], value: &[u8]| {
            if !path.starts_with(prefix) {
                return true;
            }
            let key: Vec<u8> = path.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            visit(&key, value)
        };
        let more = match View::of(here) {
            View::Leaf { path: own, value } => {
                path.extend(own.iter());
                entry(path, value)
            }
            View::Extension { path: own, child } => {
                path.extend(own.iter());
                self.walk(child, path, prefix, visit)?
            }
            View::Branch(branch) => {
                let (children, value) = branch.parts();
                for (index, child) in children.iter().enumerate() {
                    path.push(index as u8);
                    let more = self.walk(child, path, prefix, visit)?;
                    path.pop();
                    if !more {
                        return Ok(false);
                    }
                }
                value.is_empty() || {
                    let key: Vec<u8> = path.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
                    !path.starts_with(prefix) || visit(&key, value)
                }
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
        let cursor = base.map_or(Cursor::Nowhere, |base| Cursor::at(base.top().item()));
        self.nodes_below(self.top().item(), base, &cursor, visit).map(drop)
    }

    fn nodes_below(
        &self,
        item: &[u8],
        base: Option<&Self>,
        cursor: &Cursor,
        visit: &mut dyn FnMut(Hash, &Node) -> bool,
    ) -> Result<bool, TrieError> {
        let node;
        let here = match Child::of(item) {
            Child::Empty => return Ok(true),
            Child::Inside(rlp) => rlp,
            // What stands in the base too is not even loaded.
            Child::Hash(hash) if cursor.is(&hash) => return Ok(true),
            Child::Hash(hash) => {
                node = self.load(&hash)?;
                if !visit(hash, &node) {
                    return Ok(false);
                }
                node.encoding()
            }
        };
        let down = |cursor: &Cursor, nibble| match base {
            Some(base) => cursor.down(base, nibble),
            None => Ok(Cursor::Nowhere),
        };
        match View::of(here) {
            View::Leaf { .. } => Ok(true),
            View::Extension { path, child } => {
                let mut below = cursor.clone();
                for nibble in path.iter() {
                    below = down(&below, nibble)?;
                }
                self.nodes_below(child, base, &below, visit)
            }
            View::Branch(branch) => {
                for (nibble, child) in branch.parts().0.iter().enumerate() {
                    if !matches!(Child::of(child), Child::Empty)
                        && !self.nodes_below(child, base, &down(cursor, nibble as u8)?, visit)?
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
    Node(Name),
    /// The middle of an extension's path: the rest of it, and what is below.
    Inside(Vec<u8>, Name),
}

impl Cursor {
    fn at(item: &[u8]) -> Self {
        if matches!(Child::of(item), Child::Empty) { Self::Nowhere } else { Self::Node(Name::of_item(item)) }
    }

    /// Whether the node with this hash is here.
    fn is(&self, hash: &Hash) -> bool {
        matches!(self, Self::Node(name) if name.hash().as_ref() == Some(hash))
    }

    fn down(&self, trie: &Trie, nibble: u8) -> Result<Self, TrieError> {
        let inside = |path: &mut dyn Iterator<Item = u8>, child: &Name| {
            if path.next() != Some(nibble) {
                return Self::Nowhere;
            }
            let rest: Vec<u8> = path.collect();
            if rest.is_empty() { Self::at(child.item()) } else { Self::Inside(rest, *child) }
        };
        let name = match self {
            Self::Nowhere => return Ok(Self::Nowhere),
            Self::Inside(path, child) => return Ok(inside(&mut path.iter().copied(), child)),
            Self::Node(name) => name,
        };
        let node;
        let here = match Child::of(name.item()) {
            Child::Hash(hash) => {
                node = trie.load(&hash)?;
                node.encoding()
            }
            _ => name.item(),
        };
        Ok(match View::of(here) {
            View::Leaf { .. } => Self::Nowhere,
            View::Extension { path, child } => inside(&mut path.iter(), &Name::of_item(child)),
            View::Branch(branch) => Self::at(branch.parts().0[usize::from(nibble)]),
        })
    }
}
