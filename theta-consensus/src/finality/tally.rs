//! How guardians' votes come together without one being counted twice.
//!
//! The pool is cut into groups, runs of about the square root of its size. A guardian's own vote goes round in its group
//! alone. Members add up what has come, and one of them after the other, in an order that the checkpoint's hash draws, tells
//! everybody, unless what it knows has been told already. So a node checks the votes of its own group and one aggregate of
//! each other group, some twice the root of what there are guardians, and aggregates of different groups never overlap.
//!
//! Any aggregate is taken only if it has more signers than what is here, or others. So a peer gets at most as many through
//! as a group has members, and nothing that is kept grows beyond one aggregate for each group, one of all and the single
//! votes of one group.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use theta_core::{bls, bls::aggregate_signatures};

use super::{Bits, Part};
use crate::{guardian::SUITE, pace::Millis};

/// Pools up to this size are one group.
const SMALLEST_GROUP: usize = 32;
/// Members of a group that tell at once when all of it has voted, and that wait the same time when not.
const FIRST: usize = 4;
const AT_ONCE: usize = 2;

/// What can be added up.
pub(crate) trait Sum: Clone {
    /// All together; `None` if one of them is no signature.
    fn sum(parts: &[&Self]) -> Option<Self>;
}

impl Sum for bls::Signature {
    fn sum(parts: &[&Self]) -> Option<Self> {
        aggregate_signatures(SUITE, parts.iter().map(|part| (*part, 1))).ok()
    }
}

/// How a pool is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    guardians: usize,
    size: usize,
}

impl Groups {
    /// Groups of about the square root.
    pub(crate) fn new(guardians: usize) -> Self {
        let root = (1..).find(|root| root * root >= guardians).unwrap_or(guardians);
        Self::of_size(guardians, root.max(SMALLEST_GROUP))
    }

    pub(crate) const fn of_size(guardians: usize, size: usize) -> Self {
        Self { guardians, size: if size == 0 { 1 } else { size } }
    }

    pub(crate) const fn count(&self) -> usize {
        self.guardians.div_ceil(self.size)
    }

    pub(crate) const fn group_of(&self, index: usize) -> usize {
        index / self.size
    }

    pub(crate) fn range(&self, group: usize) -> Range<usize> {
        let first = group.saturating_mul(self.size).min(self.guardians);
        first..first.saturating_add(self.size).min(self.guardians)
    }
}

/// What a part is by its place.
enum Shape {
    Single(usize),
    Group(usize),
    Whole,
}

/// When a node tells what its group has voted.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// How many of the group come before it.
    rank: usize,
    at: Millis,
    wait: Millis,
}

/// Votes gathered.
#[derive(Clone, Debug)]
pub(crate) struct Tally<S> {
    groups: Groups,
    /// The group whose single votes are gathered here.
    own: Option<usize>,
    singles: BTreeMap<usize, S>,
    /// The fullest aggregate of each group.
    parts: Vec<Option<Part<S>>>,
    /// The fullest aggregate of all that came in one piece.
    whole: Option<Part<S>>,
    turn: Turn,
    /// Signers of the own group that everybody has been told of.
    told: usize,
}

impl<S: Sum> Tally<S> {
    /// `index` is this node's place in the pool, if it is a guardian. `draw` gives every member of a group another rank, the
    /// same on all nodes. Where there is one group, everybody gathers its votes.
    pub(crate) fn new(groups: Groups, index: Option<usize>, draw: u64, now: Millis, step: Millis) -> Self {
        let own = index.map(|index| groups.group_of(index)).or_else(|| (groups.count() == 1).then_some(0));
        let rank = index.map_or(usize::MAX, |index| {
            let range = groups.range(groups.group_of(index));
            let size = range.len().max(1);
            let draw = usize::try_from(draw % size as u64).unwrap_or(0);
            (index - range.start + draw) % size
        });
        let turns = Millis::try_from(rank / AT_ONCE).unwrap_or(Millis::MAX).saturating_add(1);
        let wait = step.max(1).saturating_mul(turns.min(1 << 16));
        Self {
            groups,
            own,
            singles: BTreeMap::new(),
            parts: vec![None; groups.count()],
            whole: None,
            turn: Turn { rank, at: now.saturating_add(wait), wait },
            told: 0,
        }
    }

    fn shape(&self, part: &Part<S>) -> Option<Shape> {
        let (first, length) = (part.first, part.bits.len());
        if length == 1 && first < self.groups.guardians {
            return Some(Shape::Single(first));
        }
        let group = self.groups.group_of(first);
        if self.groups.range(group) == (first..first.saturating_add(length)) && group < self.groups.count() {
            return Some(Shape::Group(group));
        }
        (first == 0 && length == self.groups.guardians).then_some(Shape::Whole)
    }

    /// Whether a part is worth being verified.
    pub(crate) fn wants(&self, part: &Part<S>) -> bool {
        let signers = part.bits.count();
        if signers == 0 {
            return false;
        }
        match self.shape(part) {
            Some(Shape::Single(index)) => {
                let group = self.groups.group_of(index);
                let first = self.groups.range(group).start;
                self.own == Some(group)
                    && !self.singles.contains_key(&index)
                    && !self.parts[group].as_ref().is_some_and(|part| part.bits.get(index - first))
            }
            Some(Shape::Group(group)) => {
                let here = self.group_bits(group);
                signers > here.count() || here.is_disjoint(&part.bits)
            }
            Some(Shape::Whole) => signers > self.signers(),
            None => false,
        }
    }

    /// Takes a verified part in; says whether it was new.
    pub(crate) fn add(&mut self, part: Part<S>) -> bool {
        if !self.wants(&part) {
            return false;
        }
        match self.shape(&part) {
            Some(Shape::Single(index)) => {
                self.singles.insert(index, part.signature);
            }
            Some(Shape::Group(group)) => {
                let own = self.own == Some(group);
                let joined = self.parts[group]
                    .as_ref()
                    .filter(|here| here.bits.is_disjoint(&part.bits))
                    .and_then(|here| here.joined(&part));
                let fuller = joined.unwrap_or(part);
                if own {
                    self.told = self.told.max(fuller.bits.count());
                }
                if self.parts[group].as_ref().is_none_or(|here| fuller.bits.count() > here.bits.count()) {
                    self.parts[group] = Some(fuller);
                }
            }
            Some(Shape::Whole) => self.whole = Some(part),
            None => return false,
        }
        true
    }

    /// Who of a group has signed, in one aggregate, and its pieces.
    fn join_group(&self, group: usize) -> (Bits, Vec<&S>) {
        let range = self.groups.range(group);
        let mut bits = Bits::new(range.len());
        let mut pieces = Vec::new();
        let singles =
            || self.singles.range(range.clone()).map(|(index, single)| (index - range.start, single));
        if let Some(part) = self.parts.get(group).and_then(Option::as_ref) {
            let beside = singles().filter(|(index, _)| !part.bits.get(*index)).count();
            if part.bits.count() + beside >= singles().count() {
                bits = part.bits.clone();
                pieces.push(&part.signature);
            }
        }
        for (index, signature) in singles() {
            if !bits.get(index) {
                bits.set(index);
                pieces.push(signature);
            }
        }
        (bits, pieces)
    }

    fn group_bits(&self, group: usize) -> Cow<'_, Bits> {
        match self.parts.get(group) {
            Some(Some(part)) if self.own != Some(group) || self.singles.is_empty() => {
                Cow::Borrowed(&part.bits)
            }
            _ => Cow::Owned(self.join_group(group).0),
        }
    }

    /// The groups that can stand beside the aggregate of all, and whether that is of use at all.
    fn plan(&self) -> (Option<&Part<S>>, Vec<usize>) {
        let every = 0..self.groups.count();
        let Some(whole) = &self.whole else { return (None, every.collect()) };
        let signers = |group: &usize| self.group_bits(*group).count();
        let free = |group: &usize| {
            let range = self.groups.range(*group);
            whole.bits.is_clear(range.start, range.len())
        };
        let beside: Vec<usize> = every.clone().filter(free).collect();
        let with = whole.bits.count() + beside.iter().map(signers).sum::<usize>();
        if with >= every.clone().map(|group| signers(&group)).sum() {
            (Some(whole), beside)
        } else {
            (None, every.collect())
        }
    }

    /// How many the fullest aggregate holds.
    pub(crate) fn signers(&self) -> usize {
        let (whole, groups) = self.plan();
        let beside = groups.into_iter().map(|group| self.group_bits(group).count()).sum::<usize>();
        whole.map_or(0, |whole| whole.bits.count()) + beside
    }

    /// Whom the fullest aggregate holds.
    pub(crate) fn cover(&self) -> Bits {
        let (whole, groups) = self.plan();
        let mut bits = whole.map_or_else(|| Bits::new(self.groups.guardians), |whole| whole.bits.clone());
        for group in groups {
            bits.join(self.groups.range(group).start, &self.group_bits(group));
        }
        bits
    }

    /// The fullest aggregate that can be made. Costs an addition for each piece of it.
    pub(crate) fn best(&self) -> Option<Part<S>> {
        let (whole, groups) = self.plan();
        let mut bits = whole.map_or_else(|| Bits::new(self.groups.guardians), |whole| whole.bits.clone());
        let mut pieces: Vec<&S> = whole.iter().map(|whole| &whole.signature).collect();
        for group in groups {
            let (joined, of_group) = self.join_group(group);
            bits.join(self.groups.range(group).start, &joined);
            pieces.extend(of_group);
        }
        // All of them have been verified, so they are points.
        (!pieces.is_empty()).then(|| Some(Part { first: 0, bits, signature: S::sum(&pieces)? }))?
    }

    /// When this node may have to tell what its group has voted; `None` while it knows no more than everybody.
    pub(crate) fn turn(&self) -> Option<Millis> {
        let own = self.own.filter(|_| self.turn.rank != usize::MAX)?;
        let bits = self.group_bits(own);
        if bits.count() <= self.told {
            return None;
        }
        let complete = bits.count() == bits.len() && self.turn.rank < FIRST;
        Some(if complete { 0 } else { self.turn.at })
    }

    /// What is to be told to everybody now.
    pub(crate) fn tell(&mut self, now: Millis) -> Option<Part<S>> {
        self.turn().filter(|at| now >= *at)?;
        let own = self.own?;
        let (bits, pieces) = self.join_group(own);
        let part = Part { first: self.groups.range(own).start, signature: S::sum(&pieces)?, bits };
        self.told = part.bits.count();
        self.turn.at = now.saturating_add(self.turn.wait);
        Some(part)
    }

    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.singles.len() + self.parts.iter().flatten().count() + usize::from(self.whole.is_some())
    }
}
