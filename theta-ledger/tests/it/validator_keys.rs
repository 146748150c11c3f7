//! Validators' BLS keys: who brings one, what is refused, who is in the set.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    bls::{self, Suite},
    codec::rlp::Decode,
    context::Finality,
    hash::{Address, keccak},
    sign::{SecretKey, Signature},
    spec::ChainSpec,
    stake::{ValidatorKey, ValidatorPool, ValidatorSet},
    trie,
};
use theta_ledger::{
    genesis::GenesisBuilder,
    ledger::{At, Ledger, LedgerReader},
    state::keys,
    tx::{DepositStake, DepositStakeV2, Purpose, RawTx, TxError, TxInput, TxOutput, Unsigned},
};

use super::ledger::{extend, key};

const CHAIN: &str = "privatenet";

fn bls_key(byte: u8) -> bls::SecretKey {
    bls::SecretKey::from_bytes(&[byte; 32]).unwrap()
}

fn fee() -> Coins {
    Coins::tfuel("0.3".parse().unwrap())
}

struct World {
    ledger: Ledger,
    reader: LedgerReader,
}

impl World {
    fn new(spec: &ChainSpec) -> Self {
        let rich = Coins { theta: ThetaWei::whole(10_000_000), tfuel: TFuelWei::whole(1_000) };
        let (first, stake) = (key(9).address(), ThetaWei::whole(5_000_000));
        let builder = GenesisBuilder::new(spec, 1_700_000_000)
            .account(key(1).address(), rich)
            .validator_with_key(first, first, stake, &bls_key(9));
        let ledger = Ledger::builder(spec.clone()).open(&builder.build()).unwrap();
        let mut world = Self { reader: ledger.reader(), ledger };
        // Keys and small stakes come with the second block.
        let genesis = world.reader.settled().hash;
        let (hash, _) = extend(&mut world.ledger, genesis, &[]);
        world.ledger.reached(Finality::Settled, &hash).unwrap();
        world
    }

    /// Settles a block of one transaction, or says why it is not valid.
    fn take(&mut self, transaction: RawTx) -> Result<(), TxError> {
        let (_, mut context) = self.reader.next_block(At::Settled).unwrap();
        context.proposer = key(9).address();
        let candidates = [Arc::new(transaction)];
        let (_, left_out) = self.ledger.build_block(&context, &candidates, &key(9)).unwrap();
        if let Some((_, error)) = left_out.into_iter().next() {
            return Err(error);
        }
        let (hash, _) = extend(&mut self.ledger, context.parent_hash, &candidates);
        self.ledger.reached(Finality::Settled, &hash).unwrap();
        Ok(())
    }

    fn set(&self) -> Arc<ValidatorSet> {
        self.reader.post_state(At::Settled).unwrap().validators
    }

    fn members(&self) -> Vec<Address> {
        self.set().as_slice().iter().map(|validator| validator.address).collect()
    }
}

fn source(sequence: u64) -> TxInput {
    TxInput::new(key(1).address(), Coins::theta(ThetaWei::whole(200_000)), sequence)
}

/// What today's wallets send.
fn plain(holder: &SecretKey, sequence: u64) -> RawTx {
    let body = DepositStake {
        fee: fee().into(),
        source: source(sequence),
        holder: TxOutput::new(holder.address(), Coins::ZERO),
        purpose: Purpose::VALIDATOR,
    };
    Unsigned::new(CHAIN, body).sign(&key(1)).unwrap()
}

fn body(holder: &SecretKey, key: &bls::SecretKey, sequence: u64) -> DepositStakeV2 {
    let proof = key.proof_of_possession(Suite::Theta2020);
    DepositStakeV2 {
        fee: fee().into(),
        source: source(sequence),
        holder: TxOutput::new(holder.address(), Coins::ZERO),
        purpose: Purpose::VALIDATOR,
        key: Some(key.public_key()),
        proof: Some(proof),
        holder_signature: holder.sign_digest(&keccak(proof.as_bytes())),
    }
}

fn signed(body: DepositStakeV2) -> RawTx {
    Unsigned::new(CHAIN, body).with_key().sign(&key(1)).unwrap()
}

#[test]
fn a_candidate_joins_once_its_key_is_there() {
    let mut world = World::new(&ChainSpec::devnet());
    world.take(plain(&key(5), 1)).unwrap();
    assert_eq!(world.members(), [key(9).address()], "a stake without a key is no validator");
    world.take(signed(body(&key(5), &bls_key(5), 2))).unwrap();
    let set = world.set();
    let joined = set.find(key(5).address()).unwrap();
    assert_eq!(joined.stake, ThetaWei::whole(400_000));
    assert_eq!(joined.bls, Some(bls_key(5).public_key()));
    // Later stakes need no key, and the same one may come again.
    world.take(plain(&key(5), 3)).unwrap();
    world.take(signed(body(&key(5), &bls_key(5), 4))).unwrap();
    assert_eq!(world.set().find(key(5).address()).unwrap().stake, ThetaWei::whole(800_000));
    let other = world.take(signed(body(&key(5), &bls_key(6), 5)));
    assert!(matches!(other, Err(TxError::BlsKey(why)) if why.contains("another key")), "{other:?}");
    // What the reader proves is enough to know the set from the root.
    let header = world.reader.settled().header;
    let nodes = world.reader.prove_validators(At::Settled).unwrap();
    let value = |key: &[u8]| trie::verify(&header.state_root, key, &nodes).unwrap();
    let pool = value(keys::VALIDATORS).unwrap();
    let pool = ValidatorPool::from_rlp(&pool, pool.len()).unwrap();
    let proven = ValidatorSet::keyed(&pool, |holder| {
        let record = value(&keys::validator_key(holder));
        record.map(|record| ValidatorKey::from_rlp(&record, record.len()).map(|key| key.key)).transpose()
    });
    assert_eq!(proven.unwrap(), *world.set());
}

#[test]
fn a_key_without_proof_of_possession_is_refused() {
    let mut world = World::new(&ChainSpec::devnet());
    let refused = |world: &mut World, change: &dyn Fn(&mut DepositStakeV2)| {
        let mut body = body(&key(5), &bls_key(5), 1);
        change(&mut body);
        let refused = world.take(signed(body));
        assert!(matches!(refused, Err(TxError::BlsKey(_))), "{refused:?}");
        assert_eq!(world.members(), [key(9).address()]);
    };
    // The genesis validator's key under another name, with one's own proof: what a rogue key needs to cancel it in sums.
    refused(&mut world, &|body| body.key = Some(bls_key(9).public_key()));
    refused(&mut world, &|body| {
        let proof = bls_key(6).proof_of_possession(Suite::Theta2020);
        body.proof = Some(proof);
        body.holder_signature = key(5).sign_digest(&keccak(proof.as_bytes()));
    });
    // The holder has not agreed.
    refused(&mut world, &|body| {
        body.holder_signature = key(6).sign_digest(&keccak(body.proof.unwrap().as_bytes()));
    });
    refused(&mut world, &|body| body.holder_signature = Signature::EMPTY);
    refused(&mut world, &|body| body.key = None);
    refused(&mut world, &|body| body.proof = None);
    // The identity is everybody's signature's key.
    refused(&mut world, &|body| {
        let nobody = bls::SecretKey::from_bytes(&[0; 32]).unwrap();
        let proof = nobody.proof_of_possession(Suite::Theta2020);
        (body.key, body.proof) = (Some(nobody.public_key()), Some(proof));
        body.holder_signature = key(5).sign_digest(&keccak(proof.as_bytes()));
    });
    world.take(signed(body(&key(5), &bls_key(5), 1))).unwrap();
    assert_eq!(world.members().len(), 2);
}

#[test]
fn the_key_is_signed_where_it_means_something_and_nowhere_else() {
    let transaction = |changed: bool| {
        let mut raw = body(&key(5), &bls_key(5), 1);
        let unsigned = Unsigned::new(CHAIN, raw.clone()).with_key();
        raw.source.signature = key(1).sign_digest(&unsigned.digest());
        if changed {
            raw.holder_signature = Signature::EMPTY;
        }
        RawTx::new(raw.into())
    };
    let old = || Unsigned::new(CHAIN, body(&key(5), &bls_key(5), 1)).sign(&key(1)).unwrap();
    for taken in [transaction(true), old()] {
        let refused = World::new(&ChainSpec::devnet()).take(taken);
        assert!(matches!(refused, Err(TxError::Signature)), "{refused:?}");
    }
    World::new(&ChainSpec::devnet()).take(transaction(false)).unwrap();
    // By the reference's rules the key is neither signed nor kept.
    let mut world = World::new(&ChainSpec::privatenet());
    let mut with_key = body(&key(5), &bls_key(5), 1);
    let refused = world.take(signed(with_key.clone()));
    assert!(matches!(refused, Err(TxError::Signature)), "{refused:?}");
    with_key.holder_signature = Signature::EMPTY;
    world.take(Unsigned::new(CHAIN, with_key).sign(&key(1)).unwrap()).unwrap();
    let set = world.set();
    assert_eq!(set.as_slice().len(), 2);
    assert!(set.as_slice().iter().all(|validator| validator.bls.is_none()));
    let mut state = world.reader.state(At::Settled).unwrap();
    assert_eq!(state.record(&keys::validator_key(key(5).address())).unwrap(), None);
}
