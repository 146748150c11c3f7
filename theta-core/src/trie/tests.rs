//! Properties of the trie.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{hash::keccak, workers::Workers};

fn empty() -> Trie {
    Trie::empty(Arc::new(NoNodes))
}

struct Nodes(BTreeMap<Hash, Vec<u8>>);

impl NodeSource for Nodes {
    fn node(&self, hash: &Hash) -> Result<Option<Node>, TrieError> {
        let Some(bytes) = self.0.get(hash) else { return Ok(None) };
        let node = Node::decode(bytes).map_err(|error| TrieError::Damaged(*hash, error))?;
        Ok(Some(node))
    }
}

fn stored(trie: &Trie) -> Trie {
    let nodes =
        trie.clone().take_new().into_iter().map(|(hash, node)| (hash, node.encoding().to_vec())).collect();
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
        reopened.nodes(None, &mut |hash, node| { walked.insert(hash, node.encoding().to_vec()); true }).expect("whole");
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
        before.nodes(None, &mut |hash, node| { nodes.insert(hash, node.encoding().to_vec()); true }).expect("whole");
        disk.nodes(Some(&before), &mut |hash, node| { nodes.insert(hash, node.encoding().to_vec()); true }).expect("whole");
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

/// Nodes as a ledger keeps them.
#[derive(Default)]
struct Kept(std::sync::Mutex<BTreeMap<Hash, Node>>);

impl Kept {
    /// Takes a trie's new nodes; gives how many there were.
    fn take(&self, trie: &mut Trie) -> usize {
        let (mut kept, new) = (self.0.lock().expect("no thread has panicked"), trie.take_new());
        assert!(new.iter().all(|(hash, node)| keccak(node.encoding()) == *hash));
        assert!(new.is_sorted_by(|a, b| a.0 < b.0));
        let count = new.len();
        kept.extend(new);
        count
    }
}

impl NodeSource for Kept {
    fn node(&self, hash: &Hash) -> Result<Option<Node>, TrieError> {
        Ok(self.0.lock().expect("no thread has panicked").get(hash).cloned())
    }
}

#[test]
fn new_nodes_are_those_of_the_trie_and_each_is_given_once() {
    let kept = Arc::new(Kept::default());
    let mut trie = Trie::empty(kept.clone());
    for index in 0_u32..1000 {
        trie.set(&index.to_be_bytes(), index.to_be_bytes().repeat(10)).expect("in memory");
    }
    let root = trie.root();
    let count = kept.take(&mut trie);
    assert_eq!(trie.root(), root);
    assert_eq!(nodes_of(&trie), kept.0.lock().expect("no thread has panicked").keys().copied().collect());
    assert_eq!(kept.take(&mut trie), 0, "nothing is new");
    let mut trie = Trie::open(root, kept.clone()).expect("the root is there");
    trie.set(&5_u32.to_be_bytes(), vec![8; 40]).expect("all nodes are there");
    let replaced = trie.take_replaced();
    let new = kept.take(&mut trie);
    assert_eq!(replaced.len(), new, "one path for another");
    assert!(new <= 8 && count > 1000);
    assert!(replaced.contains(&root));
    trie.remove(&6_u32.to_be_bytes()).expect("all nodes are there");
    trie.remove(&6_u32.to_be_bytes()).expect("all nodes are there");
    let mut replaced = trie.take_replaced();
    replaced.sort_unstable();
    replaced.dedup();
    assert!(!replaced.contains(&root), "that one was replaced before");
    assert!((2..=8).contains(&replaced.len()), "{}", replaced.len());
}

#[test]
fn a_trie_that_is_shared_gives_its_nodes_to_both() {
    let kept = Arc::new(Kept::default());
    let mut trie = Trie::empty(kept.clone());
    for index in 0_u32..100 {
        trie.set(&index.to_be_bytes(), vec![index as u8 + 10; 40]).expect("in memory");
    }
    let mut other = trie.clone();
    other.set(&5_u32.to_be_bytes(), vec![8; 40]).expect("in memory");
    let (roots, counts) = ([trie.root(), other.root()], [kept.take(&mut trie), kept.take(&mut other)]);
    assert_eq!(counts[0], counts[1]);
    for (root, value) in roots.into_iter().zip([15, 8]) {
        let trie = Trie::open(root, kept.clone()).expect("stored");
        assert_eq!(trie.get(&5_u32.to_be_bytes()).expect("stored"), Some(vec![value; 40]));
        assert_eq!(trie.get(&6_u32.to_be_bytes()).expect("stored"), Some(vec![16; 40]));
    }
}

fn nodes_of(trie: &Trie) -> BTreeSet<Hash> {
    let mut found = BTreeSet::new();
    trie.nodes(None, &mut |hash, _| {
        found.insert(hash);
        true
    })
    .expect("whole");
    found
}

/// Jobs on threads, in an order that changes.
struct Threads(usize);

impl Workers for Threads {
    fn each(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for thread in 0..self.0 {
                scope.spawn(move || (0..jobs).rev().filter(|job| job % self.0 == thread).for_each(job));
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn many_values_at_once_are_the_same_trie_on_any_number_of_threads(
        first in vec((keys(), vec(any::<u8>(), 0..40)), 0..60),
        wide in vec((any::<u16>(), any::<u8>()), 0..300),
        second in vec((keys(), vec(any::<u8>(), 0..40)), 0..60),
    ) {
        let wide = |salt: u8| wide.iter().map(move |(key, value)| {
            let key = key.rotate_left(u32::from(salt)).to_be_bytes();
            let value = if value % 5 == salt { Vec::new() } else { vec![value ^ salt; usize::from(*value) % 50 + 1] };
            (key.to_vec(), value)
        });
        let rounds: [Vec<_>; 2] = [first.into_iter().chain(wide(0)).collect(), second.into_iter().chain(wide(1)).collect()];
        let kept = Arc::new(Kept::default());
        let (mut one, mut sources) = (Trie::empty(kept.clone()), Vec::new());
        for threads in [1, 2, 7] {
            let kept = Arc::new(Kept::default());
            sources.push((threads, Trie::empty(kept.clone()), kept));
        }
        for entries in rounds {
            for (key, value) in &entries {
                one.set(key, value.clone()).expect("whole");
            }
            let root = one.root();
            kept.take(&mut one);
            for (threads, trie, kept) in &mut sources {
                let before = nodes_of(trie);
                trie.update(entries.clone(), &Threads(*threads)).expect("whole");
                prop_assert_eq!(trie.root(), root, "{} threads", threads);
                let replaced: BTreeSet<Hash> = trie.take_replaced().into_iter().collect();
                kept.take(trie);
                let after = nodes_of(trie);
                prop_assert!(replaced.is_subset(&before));
                prop_assert!(before.difference(&after).all(|gone| replaced.contains(gone)));
            }
        }
    }
}
