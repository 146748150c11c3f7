//! Changes of a trie: one key, or all of a block's at once.

use std::sync::Arc;

use super::{Kind, Link, Node, NodeSource, Trie, TrieError, nibbles};
use crate::{
    hash::Hash,
    workers::{Inline, Workers, each_mut},
};

/// Entries from which on a change is worth spreading over cores: some 100 µs of work.
const SPREAD: usize = 32;

impl Trie {
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

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), TrieError> {
        self.set(key, Vec::new())
    }

    /// Sets many values as [`Self::set`] does one after the other. A node that several of them touch is changed once, and
    /// large subtrees are changed and hashed by `workers`.
    pub fn update(
        &mut self,
        entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        workers: &dyn Workers,
    ) -> Result<(), TrieError> {
        let mut entries: Vec<Entry> =
            entries.into_iter().map(|(key, value)| Entry { path: nibbles(&key), value }).collect();
        // The later of two with one key wins: it comes first in the reversed list, and stays.
        entries.reverse();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|later, kept| later.path == kept.path);
        let mut edit = Edit { source: self.source.as_ref(), replaced: &mut self.replaced };
        for entry in entries.iter().filter(|entry| entry.value.is_empty()) {
            edit.delete(&mut self.root, &entry.path)?;
        }
        entries.retain(|entry| !entry.value.is_empty());
        edit.insert_all(&mut self.root, &mut entries, 0, workers)
    }
}

struct Entry {
    path: Vec<u8>,
    value: Vec<u8>,
}

/// One change of a trie.
struct Edit<'a> {
    source: &'a dyn NodeSource,
    replaced: &'a mut Vec<Hash>,
}

/// What one worker does: a child of a branch, and the entries that belong below it.
struct Part<'a> {
    link: &'a mut Link,
    entries: &'a mut [Entry],
    replaced: Vec<Hash>,
    done: Result<(), TrieError>,
}

impl Edit<'_> {
    /// Notes that a node is no longer part of the trie. One that was never stored needs no note.
    fn replace(&mut self, node: &Node) {
        self.replaced.extend(node.stored_hash());
    }

    fn load(&self, link: &Link) -> Result<Option<Arc<Node>>, TrieError> {
        Ok(match link {
            Link::Empty => None,
            Link::Hash(hash) => Some(super::load(self.source, hash)?),
            Link::Node(node) => Some(node.clone()),
        })
    }

    /// Gives the node at `link`, owned by this trie alone and with its hash forgotten, ready to be changed.
    fn own<'l>(&mut self, link: &'l mut Link) -> Result<&'l mut Kind, TrieError> {
        if let Link::Hash(hash) = link {
            *link = Link::Node(super::load(self.source, hash)?);
        }
        let Link::Node(node) = link else { unreachable!("callers ask for nodes that are there") };
        self.replace(node);
        Ok(node.change())
    }

    /// Inserts entries in ascending order of their paths, whose first `depth` nibbles lead to `link`.
    fn insert_all(
        &mut self,
        link: &mut Link,
        mut entries: &mut [Entry],
        depth: usize,
        workers: &dyn Workers,
    ) -> Result<(), TrieError> {
        // What comes first may give the node another shape; from a branch on the rest goes down together.
        loop {
            let [first, .., last] = &*entries else {
                return entries.iter_mut().try_for_each(|only| self.insert_entry(link, only, depth));
            };
            let shares = match link {
                Link::Empty => false,
                _ => match self.own(link)? {
                    Kind::Leaf { .. } => false,
                    Kind::Branch { .. } => true,
                    Kind::Extension { path, .. } => {
                        [first, last].iter().all(|entry| entry.path[depth..].starts_with(path))
                    }
                },
            };
            if shares {
                break;
            }
            let (first, rest) = std::mem::take(&mut entries).split_at_mut(1);
            self.insert_entry(link, &mut first[0], depth)?;
            entries = rest;
        }
        match self.own(link)? {
            Kind::Extension { path, child } => self.insert_all(child, entries, depth + path.len(), workers),
            Kind::Branch { children, value } => {
                // In ascending order only the first can end here.
                let (here, below) = entries.split_at_mut(usize::from(entries[0].path.len() == depth));
                *value =
                    here.iter_mut().map(|entry| std::mem::take(&mut entry.value)).next().or(value.take());
                self.insert_below(children, below, depth, workers)
            }
            Kind::Leaf { .. } => unreachable!("a leaf shares nothing"),
        }
    }

    fn insert_entry(&mut self, link: &mut Link, entry: &mut Entry, depth: usize) -> Result<(), TrieError> {
        self.insert(link, &entry.path[depth..], std::mem::take(&mut entry.value))
    }

    fn insert_below(
        &mut self,
        children: &mut [Link; 16],
        mut entries: &mut [Entry],
        depth: usize,
        workers: &dyn Workers,
    ) -> Result<(), TrieError> {
        let all = entries.len();
        let mut parts = Vec::with_capacity(16);
        for (nibble, link) in (0..).zip(children) {
            let count = entries.partition_point(|entry| entry.path[depth] <= nibble);
            let (below, rest) = entries.split_at_mut(count);
            if !below.is_empty() {
                parts.push(Part { link, entries: below, replaced: Vec::new(), done: Ok(()) });
            }
            entries = rest;
        }
        // Where nearly all lies below one child, the cores are better used further down.
        if all < SPREAD || parts.iter().any(|part| part.entries.len() > all / 2) {
            return parts
                .into_iter()
                .try_for_each(|part| self.insert_all(part.link, part.entries, depth + 1, workers));
        }
        let source = self.source;
        each_mut(workers, &mut parts, |part| {
            let mut edit = Edit { source, replaced: &mut part.replaced };
            part.done = edit.insert_all(part.link, part.entries, depth + 1, &Inline);
            if let (Ok(()), Link::Node(node)) = (&part.done, &part.link) {
                node.name();
            }
        });
        for part in parts {
            part.done?;
            self.replaced.extend(part.replaced);
        }
        Ok(())
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
        let Some(here) = self.load(link)? else { return Ok(false) };
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
        let Some(below) = self.load(&child)? else { return Ok(Link::Empty) };
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

fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
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
