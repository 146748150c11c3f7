//! Who the nodes are and how far they are let in (edge.md 1).
//!
//! A node's key is also the account that is paid ([`crate::identity`]), so a binding is only needed for what belongs to
//! somebody else: the wallet that operates it, whose stake counts for it and whose other nodes it is grouped with. Both
//! keys sign, so nobody registers a key that they do not control.
//!
//! What a node declares is an offer to be measured: all nodes of one operator are measured at the same instant, so that one
//! machine cannot answer for many names.

use serde::{Deserialize, Serialize};
use theta_core::codec::rlp::{Encode, encode_list};
use theta_core::hash::{Address, Hash};
use theta_core::sign::{SignError, Signature, Signer};

use super::fleet::Offer;
use crate::Millis;
use crate::identity::NodeId;

/// Blocks after which a binding has to be renewed: about three days (edge.md 1.1).
pub const MAX_BINDING: u64 = 43_200;
/// Milliseconds between two heartbeats.
pub const HEARTBEAT_MS: Millis = 10_000;
/// Heartbeats that may be missing.
const MISSING: Millis = 3;
/// The first suspension, and the longest.
const SUSPENSION_MS: (Millis, Millis) = (600_000, 24 * 3_600_000);
/// After so long without a fault the next suspension is a first one again.
const CLEAN_MS: Millis = 7 * 24 * 3_600_000;
/// Valid results after which a node is trusted with work of its own.
pub const PROBATION: u32 = 10;
/// A measurement may be below the claim by so many percent.
const TOLERANCE: u64 = 20;

/// Joins a node's key to its operator's wallet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The chain of the wallet.
    pub chain_id: String,
    /// The operator.
    pub wallet: Address,
    /// The node.
    pub node: NodeId,
    /// First height at which it holds.
    pub not_before: u64,
    /// Last height, at most [`MAX_BINDING`] later.
    pub not_after: u64,
    /// A higher one replaces a lower one.
    pub seq: u64,
    /// By the wallet.
    pub by_wallet: Signature,
    /// By the node.
    pub by_node: Signature,
}

/// Why a registration is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Of another chain.
    #[error("the binding is for another chain")]
    Chain,
    /// Not signed by the wallet or by the node.
    #[error("the {0} did not sign it")]
    Signature(&'static str),
    /// It does not hold now, or for too long.
    #[error("the binding does not hold at this height, or holds for more than {MAX_BINDING} blocks")]
    Height,
    /// An older one than the one that is known.
    #[error("a newer one is known")]
    Replaced,
    /// It is too old.
    #[error("the descriptor has expired")]
    Expired,
    /// The node was banned or not let in.
    #[error("the node is not let in")]
    Banned,
    /// There are too many classes of nodes.
    #[error("the node belongs to no class, and there is no room for another one")]
    Crowded,
}

fn digest(domain: &[u8], fill: impl FnOnce(&mut Vec<u8>)) -> Hash {
    let mut bytes = Vec::new();
    encode_list(&mut bytes, fill);
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(&bytes);
    Hash::from(*hasher.finalize().as_bytes())
}

fn is_by(signature: &Signature, digest: &Hash, who: Address) -> bool {
    signature.is_low_s() && signature.recover(digest).is_ok_and(|signer| signer == who)
}

impl Binding {
    fn digest(&self) -> Hash {
        digest(b"theta-edge/binding/v1", |out| {
            self.chain_id.encode(out);
            self.wallet.encode(out);
            self.node.0.encode(out);
            self.not_before.encode(out);
            self.not_after.encode(out);
            self.seq.encode(out);
        })
    }

    /// Signs a binding with both keys.
    pub fn sign(mut self, wallet: &dyn Signer, node: &dyn Signer) -> Result<Self, SignError> {
        let digest = self.digest();
        (self.by_wallet, self.by_node) = (wallet.sign(&digest)?, node.sign(&digest)?);
        Ok(self)
    }

    /// Whether it holds on this chain at this height.
    pub fn check(&self, chain_id: &str, height: u64) -> Result<(), RegistryError> {
        if self.chain_id != chain_id {
            return Err(RegistryError::Chain);
        }
        let longest = self.not_before.saturating_add(MAX_BINDING);
        if height < self.not_before || height > self.not_after || self.not_after > longest {
            return Err(RegistryError::Height);
        }
        let digest = self.digest();
        if !is_by(&self.by_wallet, &digest, self.wallet) {
            return Err(RegistryError::Signature("wallet"));
        }
        if !is_by(&self.by_node, &digest, self.node.0) {
            return Err(RegistryError::Signature("node"));
        }
        Ok(())
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Whose it is.
    pub binding: Binding,
    /// A higher one replaces a lower one.
    pub seq: u64,
    /// When it was made, in milliseconds since 1970.
    pub issued: Millis,
    /// For how long it holds, in milliseconds.
    pub ttl_ms: Millis,
    /// What it offers; operator and stake are looked up, not believed.
    pub offer: Offer,
    /// By the node, over everything above.
    pub signature: Signature,
}

impl Descriptor {
    fn digest(&self) -> Hash {
        digest(b"theta-edge/descriptor/v1", |out| {
            self.binding.digest().encode(out);
            self.seq.encode(out);
            self.issued.encode(out);
            self.ttl_ms.encode(out);
            let (offer, traits) = (&self.offer, &self.offer.traits);
            traits.arch.encode(out);
            traits.executors.encode(out);
            traits.gpu.clone().unwrap_or_default().encode(out);
            traits.region.encode(out);
            u64::from(traits.tier).encode(out);
            [offer.cpu_milli, offer.mem_mib, u32::from(offer.gpus), offer.vram_mib].to_vec().encode(out);
            [u32::from(offer.credits), offer.price, u32::from(offer.speed)].to_vec().encode(out);
        })
    }

    /// Signs a descriptor with the node's key.
    pub fn sign(mut self, node: &dyn Signer) -> Result<Self, SignError> {
        self.signature = node.sign(&self.digest())?;
        Ok(self)
    }

    /// Whether the node said so, not too long ago, and its binding holds.
    pub fn check(&self, chain_id: &str, height: u64, now: Millis) -> Result<(), RegistryError> {
        if now > self.issued.saturating_add(self.ttl_ms) {
            return Err(RegistryError::Expired);
        }
        self.binding.check(chain_id, height)?;
        if !is_by(&self.signature, &self.digest(), self.binding.node.0) {
            return Err(RegistryError::Signature("node"));
        }
        Ok(())
    }
}

/// A node's sign of life: 64 bytes on a stream of its own, its fields where it travels in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Counts up.
    pub seq: u64,
    /// Last command that was carried out.
    pub last_command: u64,
    /// Thousandths of a core that are free.
    pub free_cpu_milli: u32,
    /// Free memory in MiB.
    pub free_mem_mib: u32,
    /// Free memory of each GPU, in units of 64 MiB.
    pub free_vram: [u16; 8],
    /// Attempts that wait on the node.
    pub queued: u16,
    /// Free upload in kbit/s.
    pub upload_kbps: u32,
    /// It is going to leave.
    pub draining: bool,
    /// It is too hot, or on battery.
    pub throttled: bool,
}

impl Heartbeat {
    /// The 64 bytes.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.last_command.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.free_cpu_milli.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.free_mem_mib.to_le_bytes());
        for (place, vram) in bytes[24..40].chunks_exact_mut(2).zip(self.free_vram) {
            place.copy_from_slice(&vram.to_le_bytes());
        }
        bytes[40..42].copy_from_slice(&self.queued.to_le_bytes());
        bytes[42..46].copy_from_slice(&self.upload_kbps.to_le_bytes());
        bytes[46] = u8::from(self.draining) | u8::from(self.throttled) << 1;
        bytes
    }

    /// Reads them; `None` where a bit is set that means nothing.
    pub fn from_bytes(bytes: &[u8; 64]) -> Option<Self> {
        if bytes[46] > 3 || bytes[47..].iter().any(|byte| *byte != 0) {
            return None;
        }
        fn word<const N: usize>(bytes: &[u8; 64], at: usize) -> [u8; N] {
            let mut word = [0; N];
            word.copy_from_slice(&bytes[at..at + N]);
            word
        }
        let mut free_vram = [0; 8];
        for (index, vram) in free_vram.iter_mut().enumerate() {
            *vram = u16::from_le_bytes(word(bytes, 24 + 2 * index));
        }
        Some(Self {
            seq: u64::from_le_bytes(word(bytes, 0)),
            last_command: u64::from_le_bytes(word(bytes, 8)),
            free_cpu_milli: u32::from_le_bytes(word(bytes, 16)),
            free_mem_mib: u32::from_le_bytes(word(bytes, 20)),
            free_vram,
            queued: u16::from_le_bytes(word(bytes, 40)),
            upload_kbps: u32::from_le_bytes(word(bytes, 42)),
            draining: bytes[46] & 1 == 1,
            throttled: bytes[46] & 2 == 2,
        })
    }
}

/// Where a node stands (edge.md 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Registered and being measured.
    Joining,
    /// It was measured; it gets work that others do as well.
    Probation,
    /// It gets any work.
    Active,
    /// It finishes what it has and gets nothing new.
    Draining,
    /// It went away in good order.
    Left,
    /// No heartbeat came for too long.
    Lost,
    /// It did wrong and gets nothing for a while.
    Suspended,
    /// What it claimed was not true.
    Rejected,
    /// Its bond was taken.
    Slashed,
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was measured as it claimed.
    Measured,
    /// It was not.
    Refuted,
    /// Enough of its first results were valid.
    Proven,
    /// It wants to leave.
    Drain,
    /// It stays after all, or is heard of again.
    Back,
    /// It has left.
    Leave,
    /// Nothing was heard of it.
    Silent,
    /// It did wrong.
    Fault,
    /// Its suspension is over.
    Served,
    /// Its bond was taken.
    Slash,
}

impl Status {
    /// The next status, or `None` where this cannot happen now.
    pub const fn after(self, change: Change) -> Option<Self> {
        use Change as C;
        use Status as S;
        Some(match (self, change) {
            (S::Rejected | S::Slashed, _) => return None,
            (_, C::Slash) => S::Slashed,
            (S::Joining, C::Measured) | (S::Suspended, C::Served) => S::Probation,
            (S::Joining, C::Refuted) => S::Rejected,
            (S::Probation, C::Proven) | (S::Draining, C::Back) => S::Active,
            (S::Probation | S::Active, C::Drain) => S::Draining,
            (S::Draining | S::Lost | S::Probation | S::Active, C::Leave) => S::Left,
            (S::Probation | S::Active | S::Draining, C::Silent) => S::Lost,
            (S::Probation | S::Active | S::Draining | S::Lost, C::Fault) => S::Suspended,
            (S::Left | S::Lost, C::Back) => S::Probation,
            _ => return None,
        })
    }

    /// Whether it is given work.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Probation | Self::Active)
    }
}

/// A node as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it stands.
    pub status: Status,
    /// Where it comes back to after it was lost.
    proven: bool,
    pub(super) heartbeat: u64,
    /// When something was last heard of it.
    pub last_seen: Millis,
    valid: u32,
    strikes: u32,
    last_fault: Millis,
    /// When a suspension ends.
    pub suspended_until: Millis,
    /// It said that it is busy and is left alone for a while.
    pub(super) cools: bool,
    /// Newest binding and descriptor.
    pub(super) seqs: (u64, u64),
}

impl Member {
    /// Sequence of its last heartbeat.
    pub const fn heartbeats(&self) -> u64 {
        self.heartbeat
    }

    /// A node that stands there from now on.
    pub const fn new(status: Status, now: Millis) -> Self {
        Self {
            status,
            proven: matches!(status, Status::Active),
            heartbeat: 0,
            last_seen: now,
            valid: 0,
            strikes: 0,
            last_fault: 0,
            suspended_until: 0,
            cools: false,
            seqs: (0, 0),
        }
    }

    /// Carries out a change; whether it could happen.
    pub fn change(&mut self, now: Millis, change: Change) -> bool {
        let Some(mut next) = self.status.after(change) else { return false };
        if next == Status::Suspended {
            if now.saturating_sub(self.last_fault) > CLEAN_MS {
                self.strikes = 0;
            }
            let length = SUSPENSION_MS.0.saturating_mul(1 << self.strikes.min(16)).min(SUSPENSION_MS.1);
            self.suspended_until = now.saturating_add(length);
            (self.strikes, self.last_fault, self.proven, self.valid) = (self.strikes + 1, now, false, 0);
        }
        // Whoever was proven before it was lost need not prove it again.
        if next == Status::Probation && change == Change::Back && self.proven {
            next = Status::Active;
        }
        self.proven |= next == Status::Active;
        self.status = next;
        true
    }

    /// Takes a descriptor and a heartbeat that came together. A replay, an older descriptor or binding than the ones
    /// known, is refused.
    pub fn heard(
        &mut self,
        now: Millis,
        descriptor: &Descriptor,
        beat: &Heartbeat,
    ) -> Result<(), RegistryError> {
        let seqs = (descriptor.binding.seq, descriptor.seq);
        if seqs.0 < self.seqs.0 || (seqs.0 == self.seqs.0 && seqs.1 < self.seqs.1) {
            return Err(RegistryError::Replaced);
        }
        if seqs == self.seqs && beat.seq <= self.heartbeat {
            return Err(RegistryError::Replaced);
        }
        (self.seqs, self.heartbeat, self.last_seen) = (seqs, beat.seq, now);
        Ok(())
    }

    /// Stands where a log says, which has the end but not the way.
    pub(super) fn stand(&mut self, status: Status) {
        self.proven |= status == Status::Active;
        self.status = status;
    }

    /// A suspension begins anew: when the old one ends is not known any more.
    pub(super) fn suspend_again(&mut self, now: Millis) {
        self.suspended_until = now.saturating_add(SUSPENSION_MS.0);
    }

    /// A valid result of its; whether that proves it.
    pub fn valid(&mut self, now: Millis) -> bool {
        self.valid = self.valid.saturating_add(1);
        self.status == Status::Probation && self.valid >= PROBATION && self.change(now, Change::Proven)
    }

    /// When it is lost if nothing more is heard.
    pub const fn lost_at(&self) -> Millis {
        self.last_seen.saturating_add(MISSING * HEARTBEAT_MS)
    }
}

/// Whether what was measured is what was claimed, within a fifth.
pub const fn holds(claimed: u64, measured: u64) -> bool {
    measured.saturating_mul(100) >= claimed.saturating_mul(100 - TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use theta_core::sign::SecretKey;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn descriptor() -> Descriptor {
        let binding = Binding {
            chain_id: "privatenet".into(),
            wallet: key(1).address(),
            node: NodeId::of(&key(2)),
            not_before: 100,
            not_after: 200,
            seq: 1,
            by_wallet: Signature::EMPTY,
            by_node: Signature::EMPTY,
        };
        let binding = binding.sign(&key(1), &key(2)).unwrap();
        let offer = Offer::default();
        let descriptor =
            Descriptor { binding, seq: 1, issued: 1_000, ttl_ms: 500, offer, signature: Signature::EMPTY };
        descriptor.sign(&key(2)).unwrap()
    }

    #[test]
    fn a_descriptor_holds_with_both_signatures_and_in_its_time() {
        let good = descriptor();
        assert_eq!(good.check("privatenet", 150, 1_500), Ok(()));
        assert_eq!(good.check("mainnet", 150, 1_500), Err(RegistryError::Chain));
        assert_eq!(good.check("privatenet", 99, 1_500), Err(RegistryError::Height));
        assert_eq!(good.check("privatenet", 201, 1_500), Err(RegistryError::Height));
        assert_eq!(good.check("privatenet", 150, 1_501), Err(RegistryError::Expired));
        let mut claims_more = good.clone();
        claims_more.offer.cpu_milli += 1;
        assert_eq!(claims_more.check("privatenet", 150, 1_500), Err(RegistryError::Signature("node")));
        let mut stolen = good.clone();
        stolen.binding.wallet = key(3).address();
        assert_eq!(stolen.check("privatenet", 150, 1_500), Err(RegistryError::Signature("wallet")));
        let mut foreign = good.clone();
        foreign.binding =
            Binding { node: NodeId::of(&key(4)), ..foreign.binding }.sign(&key(1), &key(2)).unwrap();
        assert_eq!(foreign.check("privatenet", 150, 1_500), Err(RegistryError::Signature("node")));
        let long = Binding { not_after: 100 + MAX_BINDING + 1, ..good.binding };
        assert_eq!(long.sign(&key(1), &key(2)).unwrap().check("privatenet", 150), Err(RegistryError::Height));
    }

    #[test]
    fn a_heartbeat_is_64_bytes_and_reads_back() {
        let beat = Heartbeat {
            seq: 9,
            last_command: 8,
            free_cpu_milli: 7,
            free_mem_mib: 6,
            free_vram: [1, 2, 3, 4, 5, 6, 7, 8],
            queued: 5,
            upload_kbps: 4,
            draining: true,
            throttled: false,
        };
        assert_eq!(Heartbeat::from_bytes(&beat.to_bytes()), Some(beat));
        let mut wrong = beat.to_bytes();
        wrong[63] = 1;
        assert_eq!(Heartbeat::from_bytes(&wrong), None);
    }

    #[test]
    fn a_node_goes_through_its_life_and_no_shortcut() {
        let mut node = Member::new(Status::Joining, 0);
        assert!(!node.change(0, Change::Proven) && !node.change(0, Change::Drain));
        assert!(node.change(0, Change::Measured));
        assert_eq!(node.status, Status::Probation);
        (1..PROBATION).for_each(|_| assert!(!node.valid(0)));
        assert!(node.valid(0));
        assert_eq!(node.status, Status::Active);
        for (change, status) in [
            (Change::Drain, Status::Draining),
            (Change::Back, Status::Active),
            (Change::Silent, Status::Lost),
            (Change::Back, Status::Active),
            (Change::Drain, Status::Draining),
            (Change::Leave, Status::Left),
            (Change::Back, Status::Active),
            (Change::Slash, Status::Slashed),
        ] {
            assert!(node.change(0, change));
            assert_eq!(node.status, status, "{change:?}");
        }
        assert!(!node.change(0, Change::Back), "for good");
        let mut liar = Member::new(Status::Joining, 0);
        assert!(liar.change(0, Change::Refuted) && !liar.change(0, Change::Measured));
    }

    #[test]
    fn suspensions_double_and_are_forgotten_after_a_clean_week() {
        let mut node = Member::new(Status::Active, 0);
        let mut suspend = |now| {
            assert!(node.change(now, Change::Fault));
            let length = node.suspended_until - now;
            assert!(node.change(node.suspended_until, Change::Served));
            assert_eq!(node.status, Status::Probation, "it has to prove itself again");
            length
        };
        assert_eq!([suspend(0), suspend(1_000_000), suspend(3_000_000)], [600_000, 1_200_000, 2_400_000]);
        for round in 0..20 {
            suspend(10_000_000 + round * 100_000_000);
        }
        assert_eq!(suspend(2_050_000_000), 24 * 3_600_000);
        assert_eq!(suspend(2_050_000_000 + CLEAN_MS + 1), 600_000);
    }

    #[test]
    fn a_claim_holds_within_a_fifth() {
        assert!(holds(100, 80) && holds(100, 300) && !holds(100, 79));
        assert!(!holds(u64::MAX, 0));
    }
}
