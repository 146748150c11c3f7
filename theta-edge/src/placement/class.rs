//! Capability classes: what nodes are told apart by, interned once so that matching is a look at one bit (edge.md 3.2).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

/// Classes there may be; a node that would be one more joins none.
const MAX_CLASSES: usize = 4096;

/// What a node can do beyond numbers. Nodes with equal ones form a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Traits {
    /// Processor architecture, such as `x86_64`.
    pub arch: String,
    /// Engine builds by their digest, sorted.
    pub executors: Vec<Hash>,
    /// GPU model; none without one.
    pub gpu: Option<String>,
    /// Memory of one GPU in MiB, as the power of two below it.
    pub vram_class: u8,
    /// Country.
    pub region: String,
    /// How far it is trusted: 0 for anybody, 1 with a bond, 2 attested, 3 contracted.
    pub tier: u8,
}

/// What a task asks of a class. An empty field asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selector {
    /// Architecture.
    pub arch: Option<String>,
    /// An engine build.
    pub executor: Option<Hash>,
    /// GPU model.
    pub gpu: Option<String>,
    /// GPU memory in MiB; 0 for a task without GPU.
    pub vram_mib: u32,
    /// Countries, any of them.
    pub regions: Vec<String>,
    /// Least trust.
    pub tier: u8,
}

impl Selector {
    pub(super) fn matches(&self, class: &Traits) -> bool {
        self.arch.as_ref().is_none_or(|arch| *arch == class.arch)
            && self.executor.as_ref().is_none_or(|executor| class.executors.binary_search(executor).is_ok())
            && self.gpu.as_ref().is_none_or(|gpu| class.gpu.as_ref() == Some(gpu))
            && (self.vram_mib == 0 || (class.gpu.is_some() && class.vram_class >= vram_class(self.vram_mib)))
            && (self.regions.is_empty() || self.regions.contains(&class.region))
            && class.tier >= self.tier
    }
}

/// The power of two not above so much memory, by its exponent.
pub(super) const fn vram_class(mib: u32) -> u8 {
    if mib == 0 { 0 } else { mib.ilog2() as u8 }
}

/// Classes, each a bit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClassSet(Vec<u64>);

impl ClassSet {
    fn insert(&mut self, class: u16) {
        let word = usize::from(class / 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (class % 64);
    }

    pub(super) fn contains(&self, class: u16) -> bool {
        self.0.get(usize::from(class / 64)).is_some_and(|word| word >> (class % 64) & 1 == 1)
    }
}

/// All classes, and which of them suit which selector.
#[derive(Debug, Default)]
pub(super) struct Classes {
    known: HashMap<Traits, u16>,
    all: Vec<Traits>,
    selectors: Vec<(Selector, ClassSet, Vec<u16>)>,
    index: HashMap<Selector, u32>,
}

impl Classes {
    /// The class of these traits; `None` where there are too many.
    pub(super) fn class(&mut self, traits: &Traits) -> Option<u16> {
        if let Some(class) = self.known.get(traits) {
            return Some(*class);
        }
        if self.all.len() >= MAX_CLASSES {
            return None;
        }
        let class = self.all.len() as u16;
        for (selector, set, list) in &mut self.selectors {
            if selector.matches(traits) {
                set.insert(class);
                list.push(class);
            }
        }
        self.all.push(traits.clone());
        self.known.insert(traits.clone(), class);
        Some(class)
    }

    /// A selector that was compiled.
    pub(super) fn find(&self, selector: &Selector) -> Option<u32> {
        self.index.get(selector).copied()
    }

    /// Compiles a selector; an equal one is compiled once.
    pub(super) fn selector(&mut self, selector: &Selector) -> u32 {
        if let Some(number) = self.index.get(selector) {
            return *number;
        }
        let number = self.selectors.len() as u32;
        let (mut set, mut list) = (ClassSet::default(), Vec::new());
        for (class, traits) in self.all.iter().enumerate() {
            if selector.matches(traits) {
                set.insert(class as u16);
                list.push(class as u16);
            }
        }
        self.selectors.push((selector.clone(), set, list));
        self.index.insert(selector.clone(), number);
        number
    }

    pub(super) fn set(&self, selector: u32) -> &ClassSet {
        &self.selectors[selector as usize].1
    }

    /// The classes of a selector, in the order in which they came up.
    pub(super) fn list(&self, selector: u32) -> &[u16] {
        &self.selectors[selector as usize].2
    }

    pub(super) fn traits(&self, class: u16) -> &Traits {
        &self.all[usize::from(class)]
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_finds_its_classes_whichever_came_first() {
        let mut classes = Classes::default();
        let gpu = |vram_class, tier| Traits {
            arch: "x86_64".into(),
            gpu: Some("h100".into()),
            vram_class,
            tier,
            region: "de".into(),
            ..Traits::default()
        };
        let small = classes.class(&gpu(13, 0)).unwrap();
        let wanted = Selector { vram_mib: 40_000, ..Selector::default() };
        let number = classes.selector(&wanted);
        assert_eq!(classes.selector(&wanted), number);
        let large = classes.class(&gpu(16, 1)).unwrap();
        let none = classes.class(&Traits { arch: "x86_64".into(), ..Traits::default() }).unwrap();
        assert_eq!(classes.list(number), [large]);
        let set = classes.set(number);
        assert!(set.contains(large) && !set.contains(small) && !set.contains(none) && !set.contains(999));
        for (selector, found) in [
            (Selector::default(), vec![small, large, none]),
            (Selector { tier: 1, ..Selector::default() }, vec![large]),
            (Selector { regions: vec!["fr".into(), "de".into()], ..Selector::default() }, vec![small, large]),
            (Selector { gpu: Some("a100".into()), ..Selector::default() }, vec![]),
            (Selector { executor: Some(Hash::ZERO), ..Selector::default() }, vec![]),
        ] {
            let number = classes.selector(&selector);
            assert_eq!(classes.list(number), found, "{selector:?}");
        }
    }
}
