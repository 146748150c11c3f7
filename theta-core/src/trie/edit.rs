//! Changes of a trie: all of a block's at once, from the leaves up.

use super::{
    Trie, TrieError,
    node::{Branch, Child, Fresh, Name, Node, View},
    path::Nibbles,
};
use crate::{
    hash::{EMPTY_ROOT, Hash},
    workers::{Inline, Workers, each_mut},
};

/// Entries from which on a change is worth spreading over cores: some 100 µs of work.
const SPREAD: usize = 32;

impl Trie {
    /// Sets a value; an empty one deletes the key, as in the reference.
    pub fn set(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), TrieError> {
        self.update([(key.to_vec(), value)], &Inline)
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), TrieError> {
        self.set(key, Vec::new())
    }

    /// Sets many values as [`Self::set`] does one after the other: of two with one key the later wins. Each node that they
    /// touch is made anew once, by `workers` where there are many. If it fails nothing is changed.
    pub fn update(
        &mut self,
        entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        workers: &dyn Workers,
    ) -> Result<(), TrieError> {
        let entries: Vec<(Vec<u8>, Vec<u8>)> = entries.into_iter().collect();
        // The later of two with one key comes first in the reversed list, and stays. Most keys differ in their first bytes,
        // which are at hand in a number.
        let mut order: Vec<_> =
            entries.iter().rev().map(|(key, value)| (head(key), &key[..], value)).collect();
        order.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        order.dedup_by(|later, kept| later.1 == kept.1);
        let entries: Vec<_> =
            order.iter().map(|(_, key, value)| Entry { path: Nibbles::of_key(key), value }).collect();
        let root = match self.root {
            EMPTY_ROOT => Name::EMPTY,
            root => Name::of_hash(&root),
        };
        let mut edit = Edit::new(self);
        let done = edit.apply(root.item(), &entries, 0, workers)?;
        let root = match done {
            Done::Same => return Ok(()),
            Done::Gone => EMPTY_ROOT,
            // The root is always stored by hash, even where it is short enough to stand inside a parent.
            Done::Fresh(mut fresh) => {
                let hash = fresh.hash();
                edit.made.push((hash, fresh.node));
                hash
            }
        };
        let (replaced, made) = (edit.replaced, edit.made);
        self.root = root;
        self.replace(replaced, made);
        Ok(())
    }
}

/// A key's nibbles and its new value; an empty one is none.
#[derive(Clone, Copy)]
struct Entry<'e> {
    path: Nibbles<'e>,
    value: &'e [u8],
}

impl Entry<'_> {
    /// Without the first `count` nibbles.
    const fn skip(self, count: usize) -> Self {
        Self { path: self.path.skip(count), ..self }
    }
}

/// What became of a place in the trie.
enum Done {
    /// It is as it was.
    Same,
    /// Nothing is there now.
    Gone,
    /// This is there now.
    Fresh(Fresh),
}

/// One change of a trie, or a worker's part of it.
struct Edit<'a> {
    trie: &'a Trie,
    /// Nodes that are no longer at one of their places.
    replaced: Vec<Hash>,
    made: Vec<(Hash, Node)>,
    buffer: Vec<u8>,
}

/// What one worker does: the entries below a child of a branch.
struct Part<'e, 'l> {
    nibble: u8,
    entries: &'l [Entry<'e>],
    done: Result<Done, TrieError>,
}

/// A child of a branch that is being put together.
enum Slot<'l> {
    Old(&'l [u8]),
    New(Fresh),
}

const EMPTY: &[u8] = &[0x80];

/// A node at hand: one that is stored, or one inside its parent.
enum Held<'l> {
    Stored(Node),
    Inside(&'l [u8]),
}

impl Held<'_> {
    fn rlp(&self) -> &[u8] {
        match self {
            Self::Stored(node) => node.encoding(),
            Self::Inside(rlp) => rlp,
        }
    }

    fn view(&self) -> View<'_> {
        View::of(self.rlp())
    }
}

impl<'a> Edit<'a> {
    const fn new(trie: &'a Trie) -> Self {
        Self { trie, replaced: Vec::new(), made: Vec::new(), buffer: Vec::new() }
    }

    /// The node that an item names, which is not the empty one.
    fn hold<'l>(&self, item: &'l [u8]) -> Result<Held<'l>, TrieError> {
        Ok(match Child::of(item) {
            Child::Hash(hash) => Held::Stored(self.trie.load(&hash)?),
            _ => Held::Inside(item),
        })
    }

    /// Notes that a node has lost its place here.
    fn replace(&mut self, item: &[u8]) {
        if let Child::Hash(hash) = Child::of(item) {
            self.replaced.push(hash);
        }
    }

    /// Gives a fresh node its place in a parent.
    fn place(&mut self, mut fresh: Fresh) -> Name {
        let name = fresh.name();
        if let Some(hash) = name.hash() {
            self.made.push((hash, fresh.node));
        }
        name
    }

    /// Carries out entries, in ascending order and with one common beginning of `depth` nibbles, at the place that beginning
    /// leads to.
    fn apply(
        &mut self,
        item: &[u8],
        entries: &[Entry<'_>],
        depth: usize,
        workers: &dyn Workers,
    ) -> Result<Done, TrieError> {
        if matches!(Child::of(item), Child::Empty) {
            let live = entries.iter().filter(|entry| !entry.value.is_empty());
            return Ok(self
                .grow(&live.copied().collect::<Vec<_>>(), depth, workers)
                .map_or(Done::Same, Done::Fresh));
        }
        let held = self.hold(item)?;
        let done = match held.view() {
            View::Leaf { path, value } => self.at_leaf(path, value, entries, depth, workers),
            View::Extension { path, child } => self.under(path, child, entries, depth, workers)?,
            View::Branch(branch) => self.at_branch(held.rlp(), branch, entries, depth, workers)?,
        };
        if !matches!(done, Done::Same) {
            self.replace(item);
        }
        Ok(done)
    }

    fn at_leaf(
        &mut self,
        own: Nibbles<'_>,
        value: &[u8],
        entries: &[Entry<'_>],
        depth: usize,
        workers: &dyn Workers,
    ) -> Done {
        if let [only] = entries
            && only.path.skip(depth) == own
            && !only.value.is_empty()
        {
            return match only.value == value {
                true => Done::Same,
                false => Done::Fresh(Fresh::leaf(&mut self.buffer, &[own], only.value)),
            };
        }
        // What stands below this place afterwards: its own value among the entries, unless one of them takes its place.
        let mut below: Vec<Entry<'_>> = Vec::with_capacity(entries.len() + 1);
        let after = entries.partition_point(|entry| entry.path.skip(depth) < own);
        let (lesser, rest) = entries.split_at(after);
        let own_goes = rest.first().is_some_and(|entry| entry.path.skip(depth) == own);
        below.extend(lesser.iter().map(|entry| entry.skip(depth)));
        if !own_goes {
            below.push(Entry { path: own, value });
        }
        below.extend(rest.iter().map(|entry| entry.skip(depth)));
        below.retain(|entry| !entry.value.is_empty());
        match &below[..] {
            [] => Done::Gone,
            [only] if !own_goes && only.path == own => Done::Same,
            below => self.grow(below, 0, workers).map_or(Done::Gone, Done::Fresh),
        }
    }

    /// A new subtree of entries that all have a value, whose paths begin at `depth`.
    fn grow(&mut self, entries: &[Entry<'_>], depth: usize, workers: &dyn Workers) -> Option<Fresh> {
        let [first, .., last] = entries else {
            let only = entries.first()?;
            return Some(Fresh::leaf(&mut self.buffer, &[only.path.skip(depth)], only.value));
        };
        let start = first.path.skip(depth);
        let common = start.common(&last.path.skip(depth));
        let (value, mut parts) = cut(entries, depth + common);
        self.spread(&mut parts, workers, &|edit, part, workers| {
            Ok(edit.grow(part.entries, depth + common + 1, workers).map_or(Done::Gone, Done::Fresh))
        })
        .expect("nothing is read");
        let slots = std::array::from_fn(|_| Slot::Old(EMPTY));
        let branch = self.branch(slots, parts, value.unwrap_or_default());
        Some(self.behind(start.take(common), branch))
    }

    fn at_branch(
        &mut self,
        rlp: &[u8],
        branch: Branch<'_>,
        entries: &[Entry<'_>],
        depth: usize,
        workers: &dyn Workers,
    ) -> Result<Done, TrieError> {
        let (children, old_value) = branch.parts();
        let (value, mut parts) = cut(entries, depth);
        self.spread(&mut parts, workers, &|edit, part, workers| {
            edit.apply(children[usize::from(part.nibble)], part.entries, depth + 1, workers)
        })?;
        let value = value.unwrap_or(old_value);
        if value == old_value {
            parts.retain(|part| !matches!(part.done, Ok(Done::Same)));
            if parts.is_empty() {
                return Ok(Done::Same);
            }
            // Nearly always the same children are there, under new hashes.
            let names = parts.iter_mut().map(|part| match &mut part.done {
                Ok(Done::Fresh(fresh)) => (children[usize::from(part.nibble)], fresh.name()),
                _ => (children[usize::from(part.nibble)], Name::EMPTY),
            });
            if let Some(fresh) = Fresh::patched(rlp, names) {
                for part in parts {
                    if let Ok(Done::Fresh(fresh)) = part.done {
                        self.place(fresh);
                    }
                }
                return Ok(Done::Fresh(fresh));
            }
        }
        self.finish(children.map(Slot::Old), parts, value)
    }

    /// Carries out entries at a place where `child` stands behind `path`; the path may be empty.
    fn under(
        &mut self,
        path: Nibbles<'_>,
        child: &[u8],
        entries: &[Entry<'_>],
        depth: usize,
        workers: &dyn Workers,
    ) -> Result<Done, TrieError> {
        if path.is_empty() {
            return self.apply(child, entries, depth, workers);
        }
        // Those that go through the whole path lie together; of the others only those with a value matter.
        let common = |entry: &Entry<'_>| entry.path.skip(depth).common(&path);
        let through = |entry: &Entry<'_>| common(entry) == path.len();
        let aside = entries.iter().filter(|entry| !entry.value.is_empty() && !through(entry));
        let Some(split) = aside.map(common).min() else {
            let start = entries.iter().position(through).unwrap_or(entries.len());
            let end = entries.iter().rposition(through).map_or(start, |last| last + 1);
            return Ok(match self.apply(child, &entries[start..end], depth + path.len(), workers)? {
                Done::Fresh(fresh) => Done::Fresh(self.behind(path, fresh)),
                done => done,
            });
        };
        // A branch comes to stand inside the path.
        let shared: Vec<_> = entries.iter().filter(|entry| common(entry) >= split).copied().collect();
        let (value, mut parts) = cut(&shared, depth + split);
        let (here, rest) = (path.at(split), path.skip(split + 1));
        self.spread(&mut parts, workers, &|edit, part, workers| match part.nibble == here {
            true => edit.under(rest, child, part.entries, depth + split + 1, workers),
            false => edit.apply(EMPTY, part.entries, depth + split + 1, workers),
        })?;
        let mut slots: [Slot<'_>; 16] = std::array::from_fn(|_| Slot::Old(EMPTY));
        slots[usize::from(here)] = match rest.is_empty() {
            true => Slot::Old(child),
            false => Slot::New(Fresh::extension(&mut self.buffer, &[rest], child)),
        };
        Ok(match self.finish(slots, parts, value.unwrap_or_default())? {
            Done::Fresh(fresh) => Done::Fresh(self.behind(path.take(split), fresh)),
            done => done,
        })
    }

    /// Does the parts of a branch: on several cores where they are large, and alike.
    fn spread<'e, 'l>(
        &mut self,
        parts: &mut [Part<'e, 'l>],
        workers: &dyn Workers,
        act: &(impl Fn(&mut Edit<'_>, &Part<'e, 'l>, &dyn Workers) -> Result<Done, TrieError> + Sync),
    ) -> Result<(), TrieError> {
        let all: usize = parts.iter().map(|part| part.entries.len()).sum();
        // Where nearly all lies below one child, the cores are better used further down.
        if all < SPREAD || parts.iter().any(|part| part.entries.len() > all / 2) {
            for part in parts {
                part.done = Ok(act(self, part, workers)?);
            }
            return Ok(());
        }
        let mut jobs: Vec<_> = parts.iter_mut().map(|part| (part, Edit::new(self.trie))).collect();
        each_mut(workers, &mut jobs, |(part, edit)| {
            part.done = act(edit, part, &Inline);
            if let Ok(Done::Fresh(fresh)) = &mut part.done {
                fresh.name();
            }
        });
        for (part, edit) in jobs {
            part.done = Ok(std::mem::replace(&mut part.done, Ok(Done::Same))?);
            self.replaced.extend(edit.replaced);
            self.made.extend(edit.made);
        }
        Ok(())
    }

    /// Puts a branch together and gives what stands in its place: a branch alone if at least two ways lead on.
    fn finish(
        &mut self,
        mut slots: [Slot<'_>; 16],
        parts: Vec<Part<'_, '_>>,
        value: &[u8],
    ) -> Result<Done, TrieError> {
        fill(&mut slots, parts);
        let mut left = (0..).zip(&slots).filter(|(_, slot)| !matches!(slot, Slot::Old(EMPTY)));
        match (left.next().map(|(nibble, _)| nibble), left.next(), value) {
            (None, _, []) => Ok(Done::Gone),
            (None, _, value) => {
                Ok(Done::Fresh(Fresh::leaf(&mut self.buffer, &[Nibbles::of_key(&[])], value)))
            }
            (Some(nibble), None, []) => {
                // Its low nibble.
                let path = [nibble];
                let path = Nibbles::of_key(&path).skip(1);
                Ok(Done::Fresh(match std::mem::replace(&mut slots[usize::from(nibble)], Slot::Old(EMPTY)) {
                    Slot::New(fresh) => self.behind(path, fresh),
                    Slot::Old(item) => self.old_behind(path, item)?,
                }))
            }
            _ => Ok(Done::Fresh(self.branch(slots, Vec::new(), value))),
        }
    }

    /// A branch of these children, with what the parts made of some of them.
    fn branch(&mut self, mut slots: [Slot<'_>; 16], parts: Vec<Part<'_, '_>>, value: &[u8]) -> Fresh {
        fill(&mut slots, parts);
        let mut names = [Name::EMPTY; 16];
        for (name, slot) in names.iter_mut().zip(slots) {
            *name = match slot {
                Slot::Old(item) => Name::of_item(item),
                Slot::New(fresh) => self.place(fresh),
            };
        }
        Fresh::branch(&mut self.buffer, names.iter().map(Name::item), value)
    }

    /// Puts a path in front of a fresh node: into its own path where it has one, as an extension where it is a branch.
    fn behind(&mut self, path: Nibbles<'_>, fresh: Fresh) -> Fresh {
        if path.is_empty() {
            return fresh;
        }
        match View::of(fresh.node.encoding()) {
            View::Leaf { path: own, value } => Fresh::leaf(&mut self.buffer, &[path, own], value),
            View::Extension { path: own, child } => Fresh::extension(&mut self.buffer, &[path, own], child),
            View::Branch(_) => {
                let name = self.place(fresh);
                Fresh::extension(&mut self.buffer, &[path], name.item())
            }
        }
    }

    /// [`Self::behind`] for a node that was there before.
    fn old_behind(&mut self, path: Nibbles<'_>, item: &[u8]) -> Result<Fresh, TrieError> {
        let held = self.hold(item)?;
        let fresh = match held.view() {
            View::Leaf { path: own, value } => Fresh::leaf(&mut self.buffer, &[path, own], value),
            View::Extension { path: own, child } => Fresh::extension(&mut self.buffer, &[path, own], child),
            View::Branch(_) => return Ok(Fresh::extension(&mut self.buffer, &[path], item)),
        };
        self.replace(item);
        Ok(fresh)
    }
}

/// The first bytes of a key, as a number that orders keys as far as it goes.
fn head(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let length = key.len().min(16);
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}

/// Cuts entries whose paths have at least `depth` nibbles into the value at `depth` itself and a part for each nibble.
fn cut<'e, 'l>(entries: &'l [Entry<'e>], depth: usize) -> (Option<&'e [u8]>, Vec<Part<'e, 'l>>) {
    // In ascending order only the first can end here.
    let (here, mut below) =
        entries.split_at(usize::from(entries.first().is_some_and(|first| first.path.len() == depth)));
    let mut parts = Vec::with_capacity(below.len().min(16));
    while let Some(first) = below.first() {
        let nibble = first.path.at(depth);
        let (own, rest) = below.split_at(below.partition_point(|entry| entry.path.at(depth) == nibble));
        parts.push(Part { nibble, entries: own, done: Ok(Done::Same) });
        below = rest;
    }
    (here.first().map(|entry| entry.value), parts)
}

fn fill(slots: &mut [Slot<'_>; 16], parts: Vec<Part<'_, '_>>) {
    for part in parts {
        match part.done {
            Ok(Done::Fresh(fresh)) => slots[usize::from(part.nibble)] = Slot::New(fresh),
            Ok(Done::Gone) => slots[usize::from(part.nibble)] = Slot::Old(EMPTY),
            Ok(Done::Same) | Err(_) => {}
        }
    }
}
