//! Overspending of reserved funds, proven and punished where the chain's rules say so.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    context::Finality,
    hash::Address,
    sign::SecretKey,
    spec::ChainSpec,
};
use theta_ledger::{
    ledger::{At, Ledger, LedgerReader},
    mempool::{AdmitError, Mempool, MempoolLimits},
    tx::{OverspendingProof, RawTx, ReserveFund, ServicePayment, Slash, TxError, TxInput, Unsigned},
};

use super::{
    ledger::{extend, genesis, key},
    mempool::insert,
};

const CHAIN: &str = "privatenet";
const FUND: u64 = 100;
const COLLATERAL: u64 = 101;

fn tfuel(whole: u64) -> Coins {
    Coins::tfuel(TFuelWei::whole(whole))
}

fn payee(index: u8) -> SecretKey {
    key(0x40 + index)
}

/// A payment of whole TFUEL, signed by the payer of the fund.
fn promise(to: Address, payment_sequence: u64, amount: u64) -> ServicePayment {
    let mut payment = ServicePayment::new(
        key(1).address(),
        to,
        TFuelWei::whole(amount),
        payment_sequence,
        1,
        b"video".to_vec(),
    );
    payment.sign_as_payer(CHAIN, &key(1)).unwrap();
    payment
}

/// The payment as its payee brings it to the chain.
fn settle(to: &SecretKey, payment: &ServicePayment) -> RawTx {
    let fee = Coins::tfuel("0.3".parse().unwrap()).into();
    Unsigned::new(CHAIN, ServicePayment { fee, ..payment.clone() }).sign(to).unwrap()
}

fn slash(sequence: u64, payments: Vec<ServicePayment>) -> RawTx {
    let proof = OverspendingProof { reserve_sequence: 1, payments };
    let slash = Slash::new(key(2).address(), sequence, key(1).address(), &proof);
    Unsigned::new(CHAIN, slash).sign(&key(2)).unwrap()
}

struct World {
    ledger: Ledger,
    reader: LedgerReader,
}

impl World {
    /// A chain on which account 1 has a fund.
    fn new(spec: &ChainSpec) -> Self {
        let ledger = Ledger::builder(spec.clone()).open(&genesis(spec)).unwrap();
        let mut world = Self { reader: ledger.reader(), ledger };
        let fund = ReserveFund {
            fee: Coins::tfuel("0.3".parse().unwrap()).into(),
            source: TxInput::new(key(1).address(), tfuel(FUND), 1),
            collateral: tfuel(COLLATERAL).into(),
            resource_ids: vec![b"video".to_vec()],
            duration: 1_000,
        };
        world.block(vec![Unsigned::new(CHAIN, fund).sign(&key(1)).unwrap()]).unwrap();
        world
    }

    /// Settles a block of these; the error of the first that is not valid.
    fn block(&mut self, transactions: Vec<RawTx>) -> Result<(), TxError> {
        let parent = self.reader.settled().hash;
        for transaction in &transactions {
            // What is left out says why.
            let (_, mut context) = self.reader.next_block(At::Settled).unwrap();
            context.proposer = key(9).address();
            let (_, left_out) =
                self.ledger.build_block(&context, &[Arc::new(transaction.clone())], &key(9)).unwrap();
            if let Some((_, error)) = left_out.into_iter().next() {
                return Err(error);
            }
        }
        let transactions: Vec<_> = transactions.into_iter().map(Arc::new).collect();
        let (hash, block) = extend(&mut self.ledger, parent, &transactions);
        assert_eq!(block.transactions.len(), transactions.len() + 1);
        self.ledger.reached(Finality::Settled, &hash).unwrap();
        Ok(())
    }

    fn balance(&self, of: Address) -> Coins {
        let mut state = self.reader.state(At::Settled).unwrap();
        state.account(of).unwrap().map_or(Coins::ZERO, |account| account.balance)
    }

    /// All TFUEL that accounts have or have set aside.
    fn supply(&self) -> TFuelWei {
        let mut state = self.reader.state(At::Settled).unwrap();
        let accounts = [key(1), key(2), key(9), payee(0), payee(1), payee(2)];
        accounts.iter().fold(TFuelWei::ZERO, |sum, key| {
            let Some(account) = state.account(key.address()).unwrap() else { return sum };
            let funds = account.reserved_funds.iter().fold(account.balance.tfuel, |sum, fund| {
                let fund = fund.collateral.checked_add(fund.left()).unwrap().tfuel;
                sum.checked_add(fund).unwrap()
            });
            sum.checked_add(funds).unwrap()
        })
    }
}

#[test]
fn an_overspent_fund_is_shared_by_its_payees_and_its_collateral_burned() {
    let mut world = World::new(&ChainSpec::devnet());
    let [a, b] = [0, 1].map(|index| payee(index).address());
    let before = world.supply();
    let payments = vec![promise(a, 1, 90), promise(b, 1, 60)];
    world.block(vec![slash(1, payments)]).unwrap();
    assert_eq!(world.balance(a), tfuel(60));
    assert_eq!(world.balance(b), tfuel(40));
    assert_eq!(world.supply().checked_add(TFuelWei::whole(COLLATERAL)), Some(before));
    let mut state = world.reader.state(At::Settled).unwrap();
    assert!(state.account(key(1).address()).unwrap().unwrap().reserved_funds.is_empty());
    assert_eq!(state.account(key(2).address()).unwrap().unwrap().sequence, 1);
    assert_eq!(state.account(key(2).address()).unwrap().unwrap().balance.theta, ThetaWei::whole(1_000_000));
}

#[test]
fn what_has_settled_is_paid_already_and_still_proves() {
    let mut world = World::new(&ChainSpec::devnet());
    let fee = Coins { theta: ThetaWei::ZERO, tfuel: "0.3".parse().unwrap() };
    let (first, second) = (promise(payee(0).address(), 1, 70), promise(payee(1).address(), 1, 31));
    // The fee is the payee's.
    world.block(vec![settle(&payee(0), &first)]).unwrap();
    assert_eq!(world.balance(payee(0).address()).checked_add(fee), Some(tfuel(70)));
    let before = world.supply();
    world.block(vec![slash(1, vec![first, second.clone()])]).unwrap();
    assert_eq!(world.balance(payee(0).address()).checked_add(fee), Some(tfuel(70)), "nothing twice");
    assert_eq!(world.balance(payee(1).address()), tfuel(30), "all that was left");
    assert_eq!(world.supply().checked_add(TFuelWei::whole(COLLATERAL)), Some(before));
    // The fund is gone: the payment can no longer settle, nor the proof be brought again.
    assert!(matches!(world.block(vec![settle(&payee(1), &second)]), Err(TxError::Transfer(_))));
    let again = slash(2, vec![promise(payee(0).address(), 2, 101)]);
    assert!(matches!(world.block(vec![again]), Err(TxError::Overspending(_))));
}

#[test]
fn parts_are_rounded_down_and_the_rest_burned() {
    let mut world = World::new(&ChainSpec::devnet());
    let before = world.supply();
    let payments = (0..3).map(|index| promise(payee(index).address(), 1, 50)).collect();
    world.block(vec![slash(1, payments)]).unwrap();
    let third: TFuelWei = "33.333333333333333333".parse().unwrap();
    for index in 0..3 {
        assert_eq!(world.balance(payee(index).address()).tfuel, third);
    }
    let burned = TFuelWei::whole(COLLATERAL).checked_add(TFuelWei::wei(1_u64)).unwrap();
    assert_eq!(world.supply().checked_add(burned), Some(before));
}

#[test]
fn what_is_no_proof_is_refused_and_costs_nothing() {
    let mut world = World::new(&ChainSpec::devnet());
    let (a, b) = (payee(0).address(), payee(1).address());
    let fair = [promise(a, 1, 60), promise(b, 1, 40)];
    let unsigned = ServicePayment::new(key(1).address(), b, TFuelWei::whole(99), 1, 1, b"video".to_vec());
    let mut by_payee = unsigned.clone();
    by_payee.sign_as_payer(CHAIN, &payee(1)).unwrap();
    let mut other_chain = unsigned.clone();
    other_chain.sign_as_payer("mainnet", &key(1)).unwrap();
    let remade = |change: &dyn Fn(&mut ServicePayment)| {
        let mut payment = unsigned.clone();
        change(&mut payment);
        payment.sign_as_payer(CHAIN, &key(1)).unwrap();
        payment
    };
    let cases: Vec<(&str, Vec<ServicePayment>)> = vec![
        ("nothing", vec![]),
        ("exactly the fund", fair.to_vec()),
        ("one payment twice", vec![promise(a, 1, 60), promise(a, 1, 60)]),
        ("two receipts of one sequence", vec![promise(a, 1, 60), promise(a, 1, 61)]),
        ("unsigned", vec![promise(a, 1, 60), unsigned.clone()]),
        ("signed by the payee", vec![promise(a, 1, 60), by_payee]),
        ("signed for another chain", vec![promise(a, 1, 60), other_chain]),
        ("another fund's", vec![promise(a, 1, 60), remade(&|payment| payment.reserve_sequence = 2)]),
        (
            "another resource",
            vec![promise(a, 1, 60), remade(&|payment| payment.resource_id = b"jobs".to_vec())],
        ),
        ("to the payer", vec![promise(a, 1, 60), promise(key(1).address(), 1, 60)]),
        (
            "another payer's",
            vec![promise(a, 1, 60), remade(&|payment| payment.source.address = key(2).address())],
        ),
        ("too many", (0..513).map(|sequence| promise(a, sequence + 1, 1)).collect()),
    ];
    let (supply, head) = (world.supply(), world.reader.settled().hash);
    for (what, payments) in cases {
        let error = world.block(vec![slash(1, payments)]).unwrap_err();
        assert!(matches!(error, TxError::Overspending(_)), "{what}: {error}");
    }
    let cut = {
        let proof = OverspendingProof { reserve_sequence: 1, payments: vec![promise(a, 1, 101)] };
        let mut slash = Slash::new(key(2).address(), 1, key(1).address(), &proof);
        slash.slash_proof.pop();
        Unsigned::new(CHAIN, slash).sign(&key(2)).unwrap()
    };
    assert!(matches!(world.block(vec![cut]), Err(TxError::Decode(_))));
    let late = slash(2, vec![promise(a, 1, 101)]);
    assert!(matches!(world.block(vec![late]), Err(TxError::Sequence { .. })));
    assert_eq!((world.supply(), world.reader.settled().hash), (supply, head));
    world.block(vec![slash(1, vec![promise(a, 1, 101)])]).unwrap();
}

#[test]
fn the_reference_s_rules_know_no_slashing_and_pools_take_it_where_it_is_known() {
    let proof = || slash(1, vec![promise(payee(0).address(), 1, 101)]);
    let mut old = World::new(&ChainSpec::privatenet());
    assert!(matches!(old.block(vec![proof()]), Err(TxError::UnsupportedKind)));
    let mut pool = Mempool::new(old.reader.clone(), MempoolLimits::default()).unwrap();
    let refused = insert(&mut pool, proof().bytes, 0);
    assert!(matches!(refused, Err(AdmitError::Invalid(TxError::Unauthorized))), "{refused:?}");

    let mut new = World::new(&ChainSpec::devnet());
    let mut pool = Mempool::new(new.reader.clone(), MempoolLimits::default()).unwrap();
    let payment = settle(&payee(1), &promise(payee(1).address(), 1, 5));
    insert(&mut pool, payment.bytes.clone(), 0).unwrap();
    insert(&mut pool, proof().bytes, 0).unwrap();
    let candidates = pool.candidates(&mut new.reader.state(At::Settled).unwrap(), 10, 1 << 20).unwrap();
    assert_eq!(candidates[0].hash, proof().hash, "it goes first");
    new.block(vec![proof()]).unwrap();
}
