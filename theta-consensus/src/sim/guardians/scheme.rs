//! Signatures, make-believe and real, and what they cost.

use std::hint::black_box;

use serde::Serialize;
use theta_core::{
    bls::{self, PublicKey, SecretKey, aggregate_public_keys, aggregate_signatures, verify},
    hash::keccak_parts,
};

use crate::{
    finality::{Part, SUITE, Sum},
    guardian::SUITE as ANY,
};

const MESSAGE: &[u8] = b"a checkpoint";

/// What an operation costs, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Costs {
    /// A signature.
    pub sign: u64,
    /// Checking an aggregate, less its keys.
    pub verify: u64,
    /// Each key of it.
    pub key: u64,
    /// Adding a signature.
    pub sum: u64,
}

impl Costs {
    /// As measured for `docs/consensus.md`, in round numbers.
    pub const TYPICAL: Self = Self { sign: 1_300_000, verify: 2_200_000, key: 15_000, sum: 50_000 };

    /// Measures them. `clock` counts nanoseconds of this thread's work.
    pub fn measure(clock: &dyn Fn() -> u64) -> Self {
        const TIMES: u64 = 32;
        let keys: Vec<SecretKey> = (0..64).filter_map(key).collect();
        let publics: Vec<PublicKey> = keys.iter().map(SecretKey::public_key).collect();
        let signatures: Vec<bls::Signature> = keys.iter().map(|key| key.sign(SUITE, MESSAGE)).collect();
        let each = |work: &dyn Fn()| {
            work();
            let begun = clock();
            (0..TIMES).for_each(|_| work());
            (clock() - begun) / TIMES
        };
        let mut costs = Self { sign: 0, verify: 0, key: 0, sum: 0 };
        let (Some(secret), Some(public), Some(signature)) =
            (keys.first(), publics.first(), signatures.first())
        else {
            return costs;
        };
        costs.sign = each(&|| _ = black_box(secret.sign(SUITE, MESSAGE)));
        costs.verify = each(&|| _ = black_box(verify(SUITE, public, MESSAGE, signature)));
        let many = publics.len().max(1) as u64;
        costs.key =
            each(&|| _ = black_box(aggregate_public_keys(ANY, publics.iter().map(|key| (key, 1))))) / many;
        costs.sum =
            each(&|| _ = black_box(aggregate_signatures(ANY, signatures.iter().map(|one| (one, 1))))) / many;
        costs
    }
}

fn key(index: usize) -> Option<SecretKey> {
    let mut seed = keccak_parts(&[b"simulated guardian", &index.to_be_bytes()]);
    // Below the group order.
    seed.0[0] &= 0x3f;
    SecretKey::from_bytes(seed.as_slice()).ok()
}

/// Signatures and their costs.
pub(super) trait Scheme {
    type Signature: Sum;
    /// A guardian's own vote.
    fn sign(&self, index: usize) -> Option<Self::Signature>;
    /// One that is nobody's.
    fn forged(&self) -> Option<Self::Signature>;
    /// Whether a part is signed by those it names.
    fn verify(&self, part: &Part<Self::Signature>) -> bool;
    /// Does some work and says what it took: what the model says, or what a clock does.
    fn charge<R>(&self, modelled: impl FnOnce(&Costs, &R) -> u64, work: impl FnOnce() -> R) -> (R, u64);
}

/// A number for each guardian; an aggregate is their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(u64);

impl Sum for Number {
    fn sum(parts: &[&Self]) -> Option<Self> {
        Some(Self(parts.iter().fold(0, |sum, part| sum.wrapping_add(part.0))))
    }
}

fn number(index: usize) -> u64 {
    (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(super) struct Modelled {
    pub(super) costs: Costs,
}

impl Scheme for Modelled {
    type Signature = Number;

    fn sign(&self, index: usize) -> Option<Number> {
        Some(Number(number(index)))
    }

    fn forged(&self) -> Option<Number> {
        Some(Number(7))
    }

    fn verify(&self, part: &Part<Number>) -> bool {
        let named = part.bits.ones().map(|index| number(part.first + index));
        named.fold(0, u64::wrapping_add) == part.signature.0
    }

    fn charge<R>(&self, modelled: impl FnOnce(&Costs, &R) -> u64, work: impl FnOnce() -> R) -> (R, u64) {
        let result = work();
        let cost = modelled(&self.costs, &result);
        (result, cost)
    }
}

pub(super) struct Real<'a> {
    keys: Vec<Option<SecretKey>>,
    publics: Vec<Option<PublicKey>>,
    clock: &'a dyn Fn() -> u64,
}

impl<'a> Real<'a> {
    pub(super) fn new(guardians: usize, clock: &'a dyn Fn() -> u64) -> Self {
        let keys: Vec<Option<SecretKey>> = (0..guardians).map(key).collect();
        let publics = keys.iter().map(|key| key.as_ref().map(SecretKey::public_key)).collect();
        Self { keys, publics, clock }
    }
}

impl Scheme for Real<'_> {
    type Signature = bls::Signature;

    fn sign(&self, index: usize) -> Option<bls::Signature> {
        Some(self.keys.get(index)?.as_ref()?.sign(SUITE, MESSAGE))
    }

    fn forged(&self) -> Option<bls::Signature> {
        Some(self.keys.first()?.as_ref()?.sign(SUITE, b"another checkpoint"))
    }

    fn verify(&self, part: &Part<bls::Signature>) -> bool {
        let named = part.bits.ones().filter_map(|index| self.publics.get(part.first + index)?.as_ref());
        let key = aggregate_public_keys(ANY, named.map(|key| (key, 1)));
        key.is_ok_and(|key| verify(SUITE, &key, MESSAGE, &part.signature).is_ok())
    }

    fn charge<R>(&self, _: impl FnOnce(&Costs, &R) -> u64, work: impl FnOnce() -> R) -> (R, u64) {
        let begun = (self.clock)();
        let result = work();
        (result, (self.clock)().saturating_sub(begun))
    }
}
