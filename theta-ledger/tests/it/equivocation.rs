//! Validators that contradict themselves, proven and punished where the chain's rules say so.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::Header,
    context::Finality,
    evidence::{Evidence, EvidenceError},
    sign::{SecretKey, Signature},
    spec::ChainSpec,
    vote::Vote,
};
use theta_ledger::{
    genesis::{Genesis, GenesisBuilder},
    ledger::{At, Ledger, LedgerReader},
    mempool::{AdmitError, Mempool, MempoolLimits},
    tx::{
        DepositStake, EquivocationError, Purpose, RawTx, Slash, TxError, TxInput, TxOutput, Unsigned,
        WithdrawStake,
    },
};

use super::{
    ledger::{bls_key, extend, key},
    mempool::insert,
};

const CHAIN: &str = "privatenet";
/// The validator that breaks the rules: it staked 3,000,000 itself, account 1 another 1,000,000 with it.
const CULPRIT: u8 = 8;
const OWN: u64 = 3_000_000;
const BACKED: u64 = 1_000_000;
/// Keys with THETA, somewhere.
const ALL: [u8; 4] = [1, 2, 8, 9];

fn rich() -> Coins {
    Coins { theta: ThetaWei::whole(10_000_000), tfuel: TFuelWei::whole(1_000_000) }
}

fn genesis(spec: &ChainSpec, others: &[u8]) -> Genesis {
    let builder = GenesisBuilder::new(spec, 1_700_000_000)
        .account(key(1).address(), rich())
        .account(key(2).address(), rich())
        .validator_with_key(
            key(CULPRIT).address(),
            key(CULPRIT).address(),
            ThetaWei::whole(OWN),
            &bls_key(CULPRIT),
        )
        .validator(key(1).address(), key(CULPRIT).address(), ThetaWei::whole(BACKED));
    let with = |builder: GenesisBuilder, other: &u8| {
        let (address, stake) = (key(*other).address(), ThetaWei::whole(5_000_000));
        builder.validator_with_key(address, address, stake, &bls_key(*other))
    };
    others.iter().fold(builder, with).build()
}

fn header(by: u8, chain: &str, epoch: u64, height: u64, timestamp: u32) -> Header {
    let (chain, proposer) = (chain.to_owned(), key(by).address());
    let mut header = Header { chain, epoch, height, timestamp: timestamp.into(), proposer, ..Header::zero() };
    header.sign(&key(by)).unwrap();
    header
}

/// Two blocks of one epoch.
fn two_blocks(by: u8, height: u64) -> Evidence {
    Evidence::Proposals(Box::new([1, 2].map(|time| header(by, CHAIN, height + 3, height, time))))
}

/// Votes for two blocks of one epoch.
fn two_votes(by: u8, height: u64) -> Evidence {
    let headers = [1, 2].map(|time| header(9, CHAIN, height + 3, height, time));
    let votes = headers.each_ref().map(|header| {
        let voter = key(by).address();
        let mut vote = Vote::unsigned(header.hash(), height, header.epoch, voter);
        vote.signature = key(by).sign_digest(&vote.digest());
        vote
    });
    Evidence::Votes { votes: Box::new(votes), headers: Box::new(headers) }
}

fn slash(by: &SecretKey, sequence: u64, evidence: &Evidence) -> RawTx {
    Unsigned::new(CHAIN, Slash::of_equivocation(by.address(), sequence, evidence)).sign(by).unwrap()
}

struct World {
    ledger: Ledger,
    reader: LedgerReader,
    /// Who builds the blocks that are only tried.
    proposer: SecretKey,
}

impl World {
    fn new(spec: &ChainSpec, others: &[u8]) -> Self {
        let ledger = Ledger::builder(spec.clone()).open(&genesis(spec, others)).unwrap();
        let proposer = key(others.first().copied().unwrap_or(CULPRIT));
        Self { reader: ledger.reader(), ledger, proposer }
    }

    /// Settles a block of these; the error of the first that is not valid.
    fn block(&mut self, transactions: Vec<RawTx>) -> Result<(), TxError> {
        let parent = self.reader.settled().hash;
        let candidates: Vec<_> = transactions.into_iter().map(Arc::new).collect();
        let (_, mut context) = self.reader.next_block(At::Settled).unwrap();
        context.proposer = self.proposer.address();
        let (_, left_out) = self.ledger.build_block(&context, &candidates, &self.proposer).unwrap();
        if let Some((_, error)) = left_out.into_iter().next() {
            return Err(error);
        }
        let (hash, block) = extend(&mut self.ledger, parent, &candidates);
        assert_eq!(block.transactions.len(), candidates.len() + 1);
        self.ledger.reached(Finality::Settled, &hash).unwrap();
        Ok(())
    }

    fn grow_to(&mut self, height: u64) {
        while self.reader.settled().header.height < height {
            self.block(Vec::new()).unwrap();
        }
    }

    /// Who may vote next, with how much in whole THETA.
    fn validators(&self) -> Vec<(u8, ThetaWei)> {
        let set = self.reader.post_state(At::Settled).unwrap().validators;
        let stake = |byte: u8| set.find(key(byte).address()).map(|validator| (byte, validator.stake));
        ALL.into_iter().filter_map(stake).collect()
    }

    /// All THETA, in accounts and staked, whether it is being withdrawn or not.
    fn theta(&self) -> ThetaWei {
        let mut state = self.reader.state(At::Settled).unwrap();
        let pool = state.validators().unwrap().unwrap();
        let staked = pool.candidates.iter().flat_map(|holder| &holder.stakes).map(|stake| stake.amount);
        let held = ALL.map(|byte| {
            state
                .account(key(byte).address())
                .unwrap()
                .map_or(ThetaWei::ZERO, |account| account.balance.theta)
        });
        staked.chain(held).fold(ThetaWei::ZERO, |sum, more| sum.checked_add(more).unwrap())
    }
}

fn refusal(result: Result<(), TxError>) -> EquivocationError {
    match result {
        Err(TxError::Equivocation(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_validator_that_contradicts_itself_loses_all_that_is_staked_with_it() {
    for evidence in [two_blocks(CULPRIT, 1), two_votes(CULPRIT, 1)] {
        let mut world = World::new(&ChainSpec::devnet(), &[9]);
        let before = world.theta();
        assert_eq!(world.validators().len(), 2);
        world.block(vec![slash(&key(2), 1, &evidence)]).unwrap();
        assert_eq!(world.validators(), [(9, ThetaWei::whole(5_000_000))]);
        // Burned, to the last wei and no more; whoever brought it got nothing.
        assert_eq!(world.theta().checked_add(ThetaWei::whole(OWN + BACKED)), Some(before));
        let mut state = world.reader.state(At::Settled).unwrap();
        let bringer = state.account(key(2).address()).unwrap().unwrap().clone();
        assert_eq!((bringer.balance, bringer.sequence), (rich(), 1));
        // Nothing of it is returned later either.
        world.grow_to(1_010);
        assert_eq!(world.theta().checked_add(ThetaWei::whole(OWN + BACKED)), Some(before));
    }
}

#[test]
fn a_validator_without_an_account_may_bring_it() {
    let mut world = World::new(&ChainSpec::devnet(), &[9]);
    world.block(vec![slash(&key(9), 1, &two_votes(CULPRIT, 1))]).unwrap();
    assert_eq!(world.validators().len(), 1);
    let sequence = |world: &World| {
        let mut state = world.reader.state(At::Settled).unwrap();
        state.account(key(9).address()).unwrap().unwrap().sequence
    };
    assert_eq!(sequence(&world), 1);
}

#[test]
fn withdrawing_in_time_saves_nothing() {
    let mut world = World::new(&ChainSpec::devnet(), &[9]);
    let before = world.theta();
    let fee = Coins::tfuel("0.3".parse().unwrap());
    let withdraw = WithdrawStake {
        fee: fee.into(),
        source: TxInput::new(key(1).address(), Coins::ZERO, 1),
        holder: TxOutput::new(key(CULPRIT).address(), Coins::ZERO),
        purpose: Purpose::VALIDATOR,
    };
    world.block(vec![Unsigned::new(CHAIN, withdraw).sign(&key(1)).unwrap()]).unwrap();
    assert_eq!(world.validators()[0], (CULPRIT, ThetaWei::whole(OWN)));
    world.block(vec![slash(&key(2), 1, &two_blocks(CULPRIT, 1))]).unwrap();
    assert_eq!(world.theta().checked_add(ThetaWei::whole(OWN + BACKED)), Some(before));
}

#[test]
fn what_was_punished_is_not_punished_again_and_what_comes_later_is() {
    let mut world = World::new(&ChainSpec::devnet(), &[9]);
    world.grow_to(4);
    // Of a height that is not settled yet, as evidence usually is.
    world.block(vec![slash(&key(2), 1, &two_blocks(CULPRIT, 6))]).unwrap();
    let again =
        |world: &mut World, evidence: &Evidence| refusal(world.block(vec![slash(&key(2), 2, evidence)]));
    assert_eq!(again(&mut world, &two_blocks(CULPRIT, 6)), EquivocationError::Punished(6));
    // Stakes again, by somebody else's money.
    let deposit = DepositStake {
        fee: Coins::tfuel("0.3".parse().unwrap()).into(),
        source: TxInput::new(key(1).address(), Coins::theta(ThetaWei::whole(2_000_000)), 1),
        holder: TxOutput::new(key(CULPRIT).address(), Coins::ZERO),
        purpose: Purpose::VALIDATOR,
    };
    world.block(vec![Unsigned::new(CHAIN, deposit).sign(&key(1)).unwrap()]).unwrap();
    assert_eq!(world.validators()[0], (CULPRIT, ThetaWei::whole(2_000_000)));
    // The same, another of the same height, and one of before.
    for old in [two_blocks(CULPRIT, 6), two_votes(CULPRIT, 6), two_votes(CULPRIT, 2)] {
        assert_eq!(again(&mut world, &old), EquivocationError::Punished(6));
    }
    world.block(vec![slash(&key(2), 2, &two_votes(CULPRIT, 7))]).unwrap();
    assert_eq!(world.validators().len(), 1);
}

#[test]
fn a_proof_is_good_once_within_a_block_too() {
    let mut world = World::new(&ChainSpec::devnet(), &[9]);
    let twice = vec![slash(&key(1), 1, &two_blocks(CULPRIT, 1)), slash(&key(2), 1, &two_votes(CULPRIT, 1))];
    assert_eq!(refusal(world.block(twice)), EquivocationError::Punished(1));
}

#[test]
fn evidence_grows_stale_when_stakes_may_have_been_returned() {
    let mut world = World::new(&ChainSpec::devnet(), &[9]);
    world.grow_to(1_010);
    let try_height = |world: &mut World, height| {
        refusal(world.block(vec![slash(&key(2), 1, &two_blocks(CULPRIT, height))]))
    };
    assert_eq!(try_height(&mut world, 10), EquivocationError::Stale { height: 10, oldest: 11 });
    assert_eq!(try_height(&mut world, 1_112), EquivocationError::Ahead { height: 1_112, from: 1_012 });
    world.block(vec![slash(&key(2), 1, &two_blocks(CULPRIT, 11))]).unwrap();
    assert_eq!(world.validators().len(), 1);
}

#[test]
fn what_is_no_evidence_is_refused_and_costs_nothing() {
    use EquivocationError as E;
    let mut world = World::new(&ChainSpec::devnet(), &[9]);
    let forged = |change: &dyn Fn(&mut [Header; 2])| {
        let Evidence::Proposals(mut headers) = two_blocks(CULPRIT, 1) else { panic!("blocks") };
        change(&mut headers);
        Evidence::Proposals(headers)
    };
    let resigned = |change: &dyn Fn(&mut [Vote; 2])| {
        let Evidence::Votes { mut votes, headers } = two_votes(CULPRIT, 1) else { panic!("votes") };
        change(&mut votes);
        Evidence::Votes { votes, headers }
    };
    let cases = [
        ("another's signature", forged(&|pair| pair[1].sign(&key(9)).unwrap()), EvidenceError::Signature),
        ("no signature", forged(&|pair| pair[1].signature = Signature::EMPTY), EvidenceError::Signature),
        ("a changed block", forged(&|pair| pair[1].height = 2), EvidenceError::Signature),
        ("one block twice", forged(&|pair| pair[1] = pair[0].clone()), EvidenceError::NoConflict),
        ("two epochs", forged(&|pair| pair[1] = header(CULPRIT, CHAIN, 5, 1, 2)), EvidenceError::NoConflict),
        ("another chain", forged(&|pair| pair[1] = header(CULPRIT, "other", 4, 1, 2)), EvidenceError::Chain),
        ("two proposers", forged(&|pair| pair[1] = header(9, CHAIN, 4, 1, 2)), EvidenceError::Offender),
        ("a vote of another epoch", resigned(&|pair| pair[1].epoch += 1), EvidenceError::Signature),
        ("a vote of another", resigned(&|pair| pair[1].voter = key(9).address()), EvidenceError::Offender),
        ("one vote twice", resigned(&|pair| pair[1] = pair[0].clone()), EvidenceError::OtherBlock),
    ];
    let (theta, head) = (world.theta(), world.reader.settled().hash);
    for (what, evidence, error) in cases {
        let refused = refusal(world.block(vec![slash(&key(2), 1, &evidence)]));
        assert_eq!(refused, E::Evidence(error), "{what}");
    }
    let of = |slash: Slash| Unsigned::new(CHAIN, slash).sign(&key(2)).unwrap();
    let right = two_blocks(CULPRIT, 1);
    let named =
        Slash { slashed_address: key(9).address(), ..Slash::of_equivocation(key(2).address(), 1, &right) };
    assert_eq!(refusal(world.block(vec![of(named)])), E::Offender(key(CULPRIT).address()));
    let nobody = slash(&key(2), 1, &two_blocks(0x77, 1));
    assert_eq!(refusal(world.block(vec![nobody])), E::NoStake(key(0x77).address()));
    let mut cut = Slash::of_equivocation(key(2).address(), 1, &right);
    cut.slash_proof.pop();
    assert!(matches!(world.block(vec![of(cut)]), Err(TxError::Decode(_))));
    let mut long = Slash::of_equivocation(key(2).address(), 1, &right);
    long.slash_proof.push(0);
    assert!(matches!(world.block(vec![of(long)]), Err(TxError::Decode(_))));
    let late = slash(&key(2), 2, &right);
    assert!(matches!(world.block(vec![late]), Err(TxError::Sequence { .. })));
    let mut unsigned = Slash::of_equivocation(key(2).address(), 1, &right);
    unsigned.proposer.signature = Signature::from_bytes(vec![1; 65]);
    assert!(matches!(world.block(vec![RawTx::new(unsigned.into())]), Err(TxError::Signature)));
    let mut rewarded = Slash::of_equivocation(key(2).address(), 1, &right);
    rewarded.proposer.coins = Coins::theta(ThetaWei::whole(1)).into();
    assert!(matches!(world.block(vec![of(rewarded)]), Err(TxError::Overspending(_))));
    assert_eq!((world.theta(), world.reader.settled().hash), (theta, head));
    world.block(vec![slash(&key(2), 1, &right)]).unwrap();
}

#[test]
fn the_last_validator_stays() {
    let mut world = World::new(&ChainSpec::devnet(), &[]);
    let refused = refusal(world.block(vec![slash(&key(2), 1, &two_blocks(CULPRIT, 1))]));
    assert_eq!(refused, EquivocationError::Last);
}

#[test]
fn the_reference_s_rules_know_no_such_punishment_and_pools_take_it_where_it_is_known() {
    let proof = || slash(&key(2), 1, &two_blocks(CULPRIT, 1));
    let mut old = World::new(&ChainSpec::privatenet(), &[9]);
    assert!(matches!(old.block(vec![proof()]), Err(TxError::UnsupportedKind)));
    assert_eq!(old.validators().len(), 2);

    let mut new = World::new(&ChainSpec::devnet(), &[9]);
    let mut pool = Mempool::new(new.reader.clone(), MempoolLimits::default()).unwrap();
    insert(&mut pool, proof().bytes, 0).unwrap();
    let forged = slash(&key(1), 1, &two_blocks(0x77, 1));
    let refused = insert(&mut pool, forged.bytes, 0);
    assert!(
        matches!(refused, Err(AdmitError::Invalid(TxError::Equivocation(EquivocationError::NoStake(_))))),
        "{refused:?}"
    );
    let candidates = pool.candidates(&mut new.reader.state(At::Settled).unwrap(), 10, 1 << 20).unwrap();
    assert_eq!(candidates[0].hash, proof().hash);
    new.block(vec![proof()]).unwrap();
}
