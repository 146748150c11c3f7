//! Blocks above the newest settled one, and the headers just below it.
//!
//! Every block in the tree descends from the settled head, so whatever is certified or settled later cannot conflict with
//! what is settled now: branches that do not descend from a newly settled block leave the tree in the same step.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use theta_core::{
    block::{Block, Header},
    context::PostState,
    hash::Hash,
    spec::{ChainSpec, Pace},
    stake::{Pools, ValidatorSet},
};

use crate::{message::Peer, vote::settles_parent};

/// Settled headers kept for ancestor and validator look-ups; the reference searches as far.
const KEPT: usize = 2_000;

/// How far a block has come.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// Its parent has not been executed yet.
    Waiting,
    /// Handed out for execution.
    Executing,
    /// Executed.
    Valid(PostState),
}

/// A block above the settled head.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) block: Arc<Block>,
    pub(crate) header: Arc<Header>,
    pub(crate) progress: Progress,
    pub(crate) children: Vec<Hash>,
    /// Whether the write-ahead log has it.
    pub(crate) logged: bool,
    /// Whether its guardian and elite edge votes have been checked.
    pub(crate) upper: bool,
    /// Whether its certificate and its seed have been.
    pub(crate) below: bool,
    /// Who sent it.
    pub(crate) from: Peer,
}

impl Node {
    pub(crate) const fn is_valid(&self) -> bool {
        matches!(self.progress, Progress::Valid(_))
    }
}

/// A settled block as the engine remembers it.
#[derive(Clone, Debug)]
pub struct SettledBlock {
    /// Its header.
    pub header: Arc<Header>,
    /// What consensus was told when it was executed.
    pub post: PostState,
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    spec: Arc<ChainSpec>,
    /// Where walks over certificates end: genesis, or the block a snapshot starts at.
    root: Hash,
    settled: VecDeque<Hash>,
    below: BTreeMap<Hash, SettledBlock>,
    nodes: BTreeMap<Hash, Node>,
}

impl Tree {
    /// `tail` is ascending and ends with the settled head; `None` if it is empty or no chain.
    pub(crate) fn new(spec: Arc<ChainSpec>, root: Hash, tail: Vec<SettledBlock>) -> Option<Self> {
        let mut tree =
            Self { spec, root, settled: VecDeque::new(), below: BTreeMap::new(), nodes: BTreeMap::new() };
        for block in tail {
            if tree.settled.back().is_some_and(|above| *above != block.header.parent) {
                return None;
            }
            let hash = block.header.hash();
            tree.settled.push_back(hash);
            tree.below.insert(hash, block);
        }
        (!tree.settled.is_empty()).then_some(tree)
    }

    pub(crate) const fn root(&self) -> Hash {
        self.root
    }

    /// Hash of the newest settled block.
    pub(crate) fn head(&self) -> Hash {
        self.settled.back().copied().unwrap_or(self.root)
    }

    /// The newest settled checkpoint that guardians or elite edge nodes may vote on, among the last `interval` blocks.
    pub(crate) fn newest_checkpoint(&self, interval: usize) -> Option<(Hash, Arc<Header>, Arc<Pools>)> {
        self.settled.iter().rev().take(interval).find_map(|hash| {
            let block = self.below.get(hash)?;
            Some((*hash, block.header.clone(), block.post.pools.clone()?))
        })
    }

    pub(crate) fn head_height(&self) -> u64 {
        self.header(&self.head()).map_or(0, |header| header.height)
    }

    /// Of the lowest settled block that is remembered.
    pub(crate) fn lowest_height(&self) -> u64 {
        self.settled.front().and_then(|hash| self.header(hash)).map_or(0, |header| header.height)
    }

    pub(crate) fn node(&self, hash: &Hash) -> Option<&Node> {
        self.nodes.get(hash)
    }

    pub(crate) fn node_mut(&mut self, hash: &Hash) -> Option<&mut Node> {
        self.nodes.get_mut(hash)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Hash, &Node)> {
        self.nodes.iter()
    }

    pub(crate) fn is_settled(&self, hash: &Hash) -> bool {
        self.below.contains_key(hash)
    }

    pub(crate) fn knows(&self, hash: &Hash) -> bool {
        self.nodes.contains_key(hash) || self.is_settled(hash)
    }

    pub(crate) fn header(&self, hash: &Hash) -> Option<&Arc<Header>> {
        self.nodes.get(hash).map(|node| &node.header).or_else(|| Some(&self.below.get(hash)?.header))
    }

    /// State after an executed block.
    pub(crate) fn post(&self, hash: &Hash) -> Option<&PostState> {
        match self.nodes.get(hash) {
            Some(Node { progress: Progress::Valid(post), .. }) => Some(post),
            Some(_) => None,
            None => self.below.get(hash).map(|block| &block.post),
        }
    }

    /// Whether a block has been executed; settled ones have.
    pub(crate) fn is_valid(&self, hash: &Hash) -> bool {
        self.post(hash).is_some()
    }

    /// The block that a header certifies; the root and genesis stand for themselves.
    fn certified(&self, hash: Hash) -> Option<Hash> {
        let certified = self.header(&hash)?.certificate.block;
        Some(if hash == self.root || certified == Hash::ZERO { hash } else { certified })
    }

    /// How blocks of this height are ranked and settled.
    pub(crate) fn pace(&self, height: u64) -> Pace {
        self.spec.rules(height).consensus.pace
    }

    /// The newest block that a certificate of this one settles, or the root.
    fn settled_by(&self, mut certified: Hash) -> Option<Hash> {
        loop {
            let header = self.header(&certified)?;
            if certified == self.root || header.certificate.block == Hash::ZERO {
                return Some(certified);
            }
            let parent = self.header(&header.parent)?;
            if settles_parent(header, parent, self.pace(header.height)) {
                return Some(header.parent);
            }
            certified = header.certificate.block;
        }
    }

    /// The set that votes on a known block. Clocked: after the block certified by the block it certifies. Responsive: after
    /// the newest block that its certificate settles.
    pub(crate) fn validators(&self, hash: &Hash) -> Option<&Arc<ValidatorSet>> {
        let certified = self.certified(*hash)?;
        let source = match self.pace(self.header(hash)?.height) {
            Pace::Clocked => self.certified(certified)?,
            Pace::Responsive if certified == *hash => certified,
            Pace::Responsive => self.settled_by(certified)?,
        };
        Some(&self.post(&source)?.validators)
    }

    /// The set that may propose children of a known block. Clocked: after the block it certifies. Responsive: those who also
    /// vote on the children, which certify this block.
    pub(crate) fn next_validators(&self, hash: &Hash) -> Option<&Arc<ValidatorSet>> {
        let source = match self.pace(self.header(hash)?.height + 1) {
            Pace::Clocked => self.certified(*hash)?,
            Pace::Responsive => self.settled_by(*hash)?,
        };
        Some(&self.post(&source)?.validators)
    }

    /// Whether the set change rule binds children of this block.
    pub(crate) fn change_near(&self, parent: &Hash) -> bool {
        let changes = |hash: &Hash| self.post(hash).is_some_and(|post| post.changes_validators);
        changes(parent) || self.header(parent).is_some_and(|header| changes(&header.parent))
    }

    /// Whether `ancestor` is `hash` or lies below it.
    pub(crate) fn is_ancestor(&self, ancestor: &Hash, hash: &Hash) -> bool {
        let Some(height) = self.header(ancestor).map(|header| header.height) else { return false };
        let mut at = *hash;
        while let Some(node) = self.nodes.get(&at) {
            if at == *ancestor {
                return true;
            }
            if node.header.height <= height {
                return false;
            }
            at = node.header.parent;
        }
        // From here on there is one chain.
        at == self.head() && self.is_settled(ancestor)
    }

    /// Adds a block whose parent is in the tree or the settled head; `false` if it does not belong here.
    pub(crate) fn insert(&mut self, hash: Hash, block: Arc<Block>, from: Peer, logged: bool) -> bool {
        let parent = block.header.parent;
        if self.knows(&hash) {
            return false;
        }
        let on_head = parent == self.head();
        match self.nodes.get_mut(&parent) {
            Some(node) => node.children.push(hash),
            None if on_head => {}
            None => return false,
        }
        let header = Arc::new(block.header.clone());
        let node = Node {
            block,
            header,
            progress: Progress::Waiting,
            children: Vec::new(),
            logged,
            upper: logged,
            below: logged,
            from,
        };
        self.nodes.insert(hash, node);
        true
    }

    /// Children of a block of the tree or of the settled head.
    pub(crate) fn children(&self, hash: &Hash) -> Vec<Hash> {
        match self.nodes.get(hash) {
            Some(node) => node.children.clone(),
            None => {
                let of_head = self.nodes.iter().filter(|(_, node)| node.header.parent == *hash);
                of_head.map(|(child, _)| *child).collect()
            }
        }
    }

    /// The highest executed block that descends from `from` and passes `filter`; of equals that of the latest epoch.
    pub(crate) fn tip(&self, from: &Hash, filter: impl Fn(&Hash) -> bool) -> Option<Hash> {
        let mut best = None;
        let mut open = vec![*from];
        while let Some(hash) = open.pop() {
            if !self.is_valid(&hash) {
                continue;
            }
            let header = self.header(&hash)?;
            let rank = (header.height, header.epoch, hash);
            if filter(&hash) && best.is_none_or(|best| best < rank) {
                best = Some(rank);
            }
            open.extend(self.children(&hash));
        }
        best.map(|(_, _, hash)| hash)
    }

    /// The blocks from above the settled head up to `hash`, ascending.
    pub(crate) fn path(&self, hash: &Hash) -> Vec<Hash> {
        let mut path = Vec::new();
        let mut at = *hash;
        while let Some(node) = self.nodes.get(&at) {
            path.push(at);
            at = node.header.parent;
        }
        path.reverse();
        path
    }

    /// Takes a block and its descendants out; gives their hashes and heights.
    pub(crate) fn remove(&mut self, hash: &Hash) -> Vec<(Hash, u64)> {
        let mut removed = Vec::new();
        let mut open = vec![*hash];
        if let Some(parent) = self.nodes.get(hash).map(|node| node.header.parent)
            && let Some(parent) = self.nodes.get_mut(&parent)
        {
            parent.children.retain(|child| child != hash);
        }
        while let Some(hash) = open.pop() {
            if let Some(node) = self.nodes.remove(&hash) {
                open.extend(node.children);
                removed.push((hash, node.header.height));
            }
        }
        removed
    }

    /// Makes an executed block of the tree the settled head. Gives the blocks that left the tree: its ancestors, itself
    /// and every branch that does not descend from it.
    pub(crate) fn settle(&mut self, hash: &Hash) -> BTreeSet<Hash> {
        let path = self.path(hash);
        let mut kept = BTreeMap::new();
        let mut open = self.children(hash);
        while let Some(hash) = open.pop() {
            if let Some(node) = self.nodes.remove(&hash) {
                open.extend(node.children.iter().copied());
                kept.insert(hash, node);
            }
        }
        let gone = self.nodes.keys().copied().collect();
        for hash in path {
            if let Some(Node { header, progress: Progress::Valid(post), .. }) = self.nodes.remove(&hash) {
                self.settled.push_back(hash);
                self.below.insert(hash, SettledBlock { header, post });
            }
        }
        while self.settled.len() > KEPT {
            if let Some(oldest) = self.settled.pop_front() {
                self.below.remove(&oldest);
            }
        }
        self.nodes = kept;
        gone
    }
}

#[cfg(test)]
mod tests {
    use theta_core::block::CommitCertificate;

    use super::*;

    fn block(parent: Hash, height: u64, epoch: u64) -> (Hash, Arc<Block>) {
        let certificate = CommitCertificate::bare(parent);
        let header = Header { parent, height, epoch, certificate, ..Header::zero() };
        (header.hash(), Arc::new(Block { header, transactions: Vec::new() }))
    }

    fn post() -> PostState {
        PostState::new(Hash::ZERO, Arc::default())
    }

    fn add(tree: &mut Tree, parent: Hash, height: u64, epoch: u64) -> Hash {
        let (hash, block) = block(parent, height, epoch);
        assert!(tree.insert(hash, block, Peer::Own, false));
        tree.node_mut(&hash).expect("inserted").progress = Progress::Valid(post());
        hash
    }

    fn tree() -> (Tree, Hash) {
        let header = Arc::new(Header::zero());
        let root = header.hash();
        (
            Tree::new(Arc::new(ChainSpec::devnet()), root, vec![SettledBlock { header, post: post() }])
                .expect("a chain"),
            root,
        )
    }

    #[test]
    fn settling_drops_every_other_branch() {
        let (mut tree, root) = tree();
        let a1 = add(&mut tree, root, 1, 1);
        let a2 = add(&mut tree, a1, 2, 3);
        let a3 = add(&mut tree, a2, 3, 5);
        let b1 = add(&mut tree, root, 1, 2);
        let b2 = add(&mut tree, a1, 2, 4);
        let gone = tree.settle(&a2);
        assert_eq!(gone, BTreeSet::from([a1, a2, b1, b2]));
        assert_eq!(tree.head(), a2);
        assert!(tree.is_ancestor(&root, &a3) && tree.is_ancestor(&a1, &a3) && !tree.knows(&b1));
        let (hash, late) = block(root, 1, 9);
        assert!(!tree.insert(hash, late, Peer::Own, false));
    }

    #[test]
    fn the_tip_is_the_highest_executed_descendant() {
        let (mut tree, root) = tree();
        let a1 = add(&mut tree, root, 1, 1);
        let a2 = add(&mut tree, a1, 2, 3);
        let b1 = add(&mut tree, root, 1, 7);
        let (unexecuted, waiting) = block(a2, 3, 8);
        assert!(tree.insert(unexecuted, waiting, Peer::Own, false));
        assert_eq!(tree.tip(&root, |_| true), Some(a2));
        assert_eq!(tree.tip(&b1, |_| true), Some(b1));
        assert_eq!(tree.tip(&root, |hash| *hash != a2), Some(b1));
        assert_eq!(tree.tip(&unexecuted, |_| true), None);
        assert!(!tree.is_ancestor(&b1, &a2));
    }

    #[test]
    fn a_removed_block_takes_its_descendants_with_it() {
        let (mut tree, root) = tree();
        let a1 = add(&mut tree, root, 1, 1);
        let a2 = add(&mut tree, a1, 2, 2);
        add(&mut tree, a2, 3, 3);
        assert_eq!(tree.remove(&a2).len(), 2);
        assert_eq!(tree.tip(&root, |_| true), Some(a1));
        assert!(tree.children(&a1).is_empty());
    }
}
