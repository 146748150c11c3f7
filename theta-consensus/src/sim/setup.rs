//! Who takes part in a run, with which keys and stakes.

use std::sync::Arc;

use theta_core::{
    amount::{TFuelWei, ThetaWei},
    bls,
    hash::{Address, Hash, keccak_parts},
    sign::{SignError, Signature, Signer},
    stake::{EliteEdgeNode, EliteState, GuardianPool, Pools},
};

use super::Scenario;
use crate::{certificate::VoteKey, engine::Roles};

/// Address and digest side by side, and the low half of a signature all zeros: nothing that has to be computed.
fn make_believe(address: Address, digest: &Hash) -> [u8; 65] {
    let mut bytes = [0; 65];
    bytes[..20].copy_from_slice(address.as_slice());
    bytes[20..32].copy_from_slice(&digest[..12]);
    bytes
}

/// A signer whose signatures only look like some.
#[derive(Debug)]
pub(super) struct Pretender(pub(super) Address);

/// Whether a make-believe signature is an address's.
pub(super) fn pretends(signature: &Signature, digest: &Hash, address: Address) -> bool {
    signature.as_bytes() == make_believe(address, digest).as_slice()
}

impl Signer for Pretender {
    fn address(&self) -> Address {
        self.0
    }
    fn sign(&self, digest: &Hash) -> Result<Signature, SignError> {
        Ok(Signature::from_bytes(make_believe(self.0, digest).to_vec()))
    }
}

/// The key of a validator's shares, which only looks like one unless signatures are real.
pub(super) fn vote_key(scenario: &Scenario, node: usize) -> VoteKey {
    let mut seed = keccak_parts(&[b"simulated shares", &node.to_be_bytes()]);
    // Below the group order.
    seed.0[0] &= 0x3f;
    match bls::SecretKey::from_bytes(seed.as_slice()) {
        Ok(key) if scenario.real_signatures => VoteKey::Curve(key),
        _ => {
            let mut bytes = [0; 48];
            bytes[16..].copy_from_slice(seed.as_slice());
            VoteKey::MakeBelieve(bls::PublicKey::from_checked_bytes(bytes))
        }
    }
}

pub(super) fn checkpoint_key(scenario: &Scenario, node: usize) -> Option<bls::SecretKey> {
    let mut seed = keccak_parts(&[b"simulated guardian", &node.to_be_bytes()]);
    // Below the group order.
    seed.0[0] &= 0x3f;
    let votes = scenario.guardians.contains(&node) || scenario.elite.contains(&node);
    bls::SecretKey::from_bytes(seed.as_slice()).ok().filter(|_| votes)
}

pub(super) fn roles(
    scenario: &Scenario,
    node: usize,
    address: Address,
    key: Option<&bls::SecretKey>,
) -> Roles {
    let mut roles = if node < scenario.validators { Roles::validator(address) } else { Roles::observer() };
    if let Some(key) = key.filter(|_| scenario.guardians.contains(&node)) {
        roles = roles.with_guardian(key.public_key());
    }
    if scenario.elite.contains(&node) { roles.with_elite(address) } else { roles }
}

/// Who votes for checkpoints; nothing if nobody does.
pub(super) fn pools(
    scenario: &Scenario,
    signers: &[Arc<dyn Signer>],
    keys: &[Option<bls::SecretKey>],
) -> Option<Arc<Pools>> {
    let (mut guardians, mut elite) = (GuardianPool::default(), EliteState::default());
    for (node, (signer, key)) in signers.iter().zip(keys).enumerate() {
        let (address, Some(key)) = (signer.address(), key) else { continue };
        if scenario.guardians.contains(&node) {
            guardians.deposit(address, address, ThetaWei::whole(1_000), Some(key.public_key())).ok()?;
        }
        if scenario.elite.contains(&node) {
            let stake = TFuelWei::whole(100_000);
            let mut node = EliteEdgeNode::new(address, key.public_key());
            node.deposit(address, stake).ok()?;
            elite.total = elite.total.checked_add(stake)?;
            elite.nodes.insert(address, node);
        }
    }
    let nobody = guardians.guardians.is_empty() && elite.nodes.is_empty();
    (!nobody).then(|| Arc::new(Pools { guardians, elite }))
}
