//! The mempool: what it admits, in which order it offers, and why something leaves it.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei},
    context::Finality,
    hash::{Address, Hash},
    sign::SecretKey,
    spec::ChainSpec,
};
use theta_ledger::{
    ledger::{At, Ledger},
    mempool::{AdmitError, Admitted, DropReason, Mempool, MempoolLimits, Millis},
    tx::{RawTx, ReserveFund, Send, ServicePayment, TxError, TxInput, TxOutput, Unsigned},
};

use super::ledger::{extend, genesis, key, send};

pub fn insert(pool: &mut Mempool, bytes: Vec<u8>, now: Millis) -> Result<Admitted, AdmitError> {
    let screened = pool.screen().check(bytes)?;
    pool.insert(screened, now)
}

pub fn offering(from: &SecretKey, sequence: u64, fee: &str) -> RawTx {
    let (amount, fee) = (Coins::tfuel(TFuelWei::whole(1)), Coins::tfuel(fee.parse().unwrap()));
    let body = Send {
        fee: fee.into(),
        inputs: vec![TxInput::new(from.address(), amount.checked_add(fee).unwrap(), sequence)],
        outputs: vec![TxOutput::new(Address::repeat_byte(0xaa), amount)],
    };
    Unsigned::new("privatenet", body).sign(from).unwrap()
}

fn pool() -> (Ledger, Mempool, Hash) {
    pool_with(MempoolLimits::default())
}

fn pool_with(limits: MempoolLimits) -> (Ledger, Mempool, Hash) {
    let spec = ChainSpec::privatenet();
    let genesis = genesis(&spec);
    let mut ledger = Ledger::builder(spec).open(&genesis).unwrap();
    let (first, _) = extend(&mut ledger, genesis.hash(), &[]);
    ledger.reached(Finality::Settled, &first).unwrap();
    let pool = Mempool::new(ledger.reader(), limits).unwrap();
    (ledger, pool, first)
}

#[test]
fn a_gap_parks_until_it_is_filled() {
    let (ledger, mut pool, _) = pool();
    let insert = |pool: &mut Mempool, sequence| insert(pool, send(&key(1), sequence, 1).bytes, 0);
    assert!(matches!(insert(&mut pool, 3), Ok(Admitted::Parked { missing: 1, .. })));
    assert!(matches!(insert(&mut pool, 1), Ok(Admitted::Ready(_))));
    let mut view = ledger.reader().state(At::Settled).unwrap();
    assert_eq!(pool.candidates(&mut view, 10, usize::MAX).unwrap().len(), 1);
    assert!(matches!(insert(&mut pool, 2), Ok(Admitted::Ready(_))));
    let order: Vec<u64> = pool
        .candidates(&mut view, 10, usize::MAX)
        .unwrap()
        .iter()
        .map(|raw| raw.transaction.sender().1)
        .collect();
    assert_eq!(order, [1, 2, 3]);
    assert_eq!(pool.next_sequence(key(1).address()).unwrap(), Some(4));
    assert!(matches!(insert(&mut pool, 200), Err(AdmitError::TooFarAhead { got: 200, expected: 4, .. })));
    assert!(matches!(insert(&mut pool, 3), Err(AdmitError::Known)));
}

#[test]
fn only_a_better_offer_replaces() {
    let (_, mut pool, _) = pool();
    let with_fee = |fee| offering(&key(1), 1, fee).bytes;
    assert!(insert(&mut pool, with_fee("0.4"), 0).is_ok());
    assert!(matches!(insert(&mut pool, with_fee("0.42"), 0), Err(AdmitError::Underpriced(_))));
    let better = insert(&mut pool, with_fee("0.5"), 0).unwrap().hash();
    assert_eq!(pool.len(), 1);
    let old = offering(&key(1), 1, "0.4").hash;
    assert!(matches!(pool.reason(&old), Some(DropReason::Replaced(by)) if *by == better));
}

fn refused(pool: &mut Mempool, bytes: Vec<u8>) -> TxError {
    match insert(pool, bytes, 0) {
        Err(AdmitError::Invalid(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_can_not_become_valid_is_refused_with_its_reason() {
    let (_, mut pool, _) = pool();
    assert!(matches!(refused(&mut pool, vec![0x0c, 0xc0]), TxError::Decode(_)));
    assert!(matches!(refused(&mut pool, Vec::new()), TxError::Decode(_)));
    let good = send(&key(1), 1, 1).bytes;
    for cut in 0..good.len() {
        assert!(matches!(refused(&mut pool, good[..cut].to_vec()), TxError::Decode(_)));
    }
    let mut forged = good.clone();
    let at = forged.len() - 60;
    forged[at] ^= 1;
    assert!(matches!(
        refused(&mut pool, forged),
        TxError::Signature | TxError::Decode(_) | TxError::Unbalanced
    ));
    assert!(matches!(refused(&mut pool, send(&key(1), 1, 2_000_000).bytes), TxError::Insufficient(_)));
    assert!(matches!(refused(&mut pool, send(&key(3), 1, 1).bytes), TxError::NoAccount(_)));
    let sequence = refused(&mut pool, send(&key(1), 0, 1).bytes);
    assert_eq!(sequence.to_string(), "ValidateInputAdvanced: Got 0, expected 1. (acc.seq=0)");
    // Own waiting transactions count against the balance.
    assert!(insert(&mut pool, send(&key(1), 1, 900_000).bytes, 0).is_ok());
    assert!(matches!(refused(&mut pool, send(&key(1), 2, 200_000).bytes), TxError::Insufficient(_)));
    assert!(insert(&mut pool, good, 0).is_err());
}

#[test]
fn what_was_settled_leaves_and_the_rest_stays() {
    let (mut ledger, mut pool, first) = pool();
    for sequence in 1..=3 {
        insert(&mut pool, send(&key(1), sequence, 1).bytes, 0).unwrap();
    }
    let waiting = send(&key(1), 1, 1);
    let (second, block) = extend(&mut ledger, first, &[Arc::new(waiting.clone())]);
    // A block that is not settled yet hides what it holds.
    let mut view = ledger.reader().state(At::Block(second)).unwrap();
    assert_eq!(pool.candidates(&mut view, 10, usize::MAX).unwrap().len(), 2);
    ledger.reached(Finality::Settled, &second).unwrap();
    pool.settled(&[block], 0).unwrap();
    assert!(pool.reason(&waiting.hash).is_none());
    assert_eq!(pool.len(), 2);
    assert!(matches!(insert(&mut pool, waiting.bytes, 0), Err(AdmitError::Known)));
}

/// A transfer whose payers sign one after the other.
fn joint(payers: &[(&SecretKey, u64, u64)], to: Address) -> RawTx {
    let coins = |tfuel| Coins::tfuel(TFuelWei::whole(tfuel));
    let total: u64 = payers.iter().map(|(.., tfuel)| tfuel).sum();
    let mut body = Send {
        fee: coins(1).into(),
        inputs: payers
            .iter()
            .map(|(payer, sequence, tfuel)| TxInput::new(payer.address(), coins(*tfuel), *sequence))
            .collect(),
        outputs: vec![TxOutput::new(to, coins(total - 1))],
    };
    let digest = Unsigned::new("privatenet", body.clone()).digest();
    for (input, (payer, ..)) in body.inputs.iter_mut().zip(payers) {
        input.signature = payer.sign_digest(&digest);
    }
    RawTx::new(body.into())
}

fn settle(ledger: &mut Ledger, pool: &mut Mempool, parent: Hash, candidates: &[RawTx]) -> Hash {
    let candidates: Vec<_> = candidates.iter().cloned().map(Arc::new).collect();
    let (hash, block) = extend(ledger, parent, &candidates);
    assert_eq!(block.transactions.len(), 1 + candidates.len());
    ledger.reached(Finality::Settled, &hash).unwrap();
    pool.settled(&[block], 0).unwrap();
    hash
}

#[test]
fn what_a_block_brings_may_be_spent_behind_a_row() {
    let (mut ledger, mut pool, first) = pool();
    let row = [send(&key(1), 1, 1), send(&key(1), 2, 900_000)];
    for raw in &row {
        insert(&mut pool, raw.bytes.clone(), 0).unwrap();
    }
    let gift = joint(&[(&key(2), 1, 500_001)], key(1).address());
    settle(&mut ledger, &mut pool, first, &[row[0].clone(), gift]);
    // More than there was without the gift, less than there is with it.
    let spent = send(&key(1), 3, 400_000);
    assert!(matches!(insert(&mut pool, spent.bytes, 0), Ok(Admitted::Ready(_))));
    let account = pool.preview(key(1).address()).unwrap().unwrap();
    assert_eq!(account.sequence, 3);
    let expected: TFuelWei = "199998.1".parse().unwrap();
    assert_eq!(account.balance.tfuel, expected);
    assert!(matches!(refused(&mut pool, send(&key(1), 4, 200_000).bytes), TxError::Insufficient(_)));
}

#[test]
fn what_others_take_is_missed_behind_a_row() {
    let (mut ledger, mut pool, first) = pool();
    let row = [send(&key(1), 1, 1), send(&key(1), 2, 1)];
    for raw in &row {
        insert(&mut pool, raw.bytes.clone(), 0).unwrap();
    }
    // It is in the row of its first payer, and takes a sequence and most of the funds of the second.
    let both = joint(&[(&key(2), 1, 10), (&key(1), 1, 900_000)], Address::repeat_byte(7));
    settle(&mut ledger, &mut pool, first, &[both]);
    assert!(matches!(pool.reason(&row[0].hash), Some(DropReason::Invalid(TxError::Sequence { .. }))));
    assert!(pool.knows(&row[1].hash) && pool.reason(&row[1].hash).is_none());
    assert!(matches!(refused(&mut pool, send(&key(1), 3, 200_000).bytes), TxError::Insufficient(_)));
    assert!(matches!(insert(&mut pool, send(&key(1), 3, 50_000).bytes, 0), Ok(Admitted::Ready(_))));
}

#[test]
fn the_least_offer_leaves_a_full_pool_and_its_sender_is_told() {
    let (_, mut pool, _) = pool_with(MempoolLimits { transactions: 2, ..MempoolLimits::default() });
    let [low, high, higher, lowest] = [
        offering(&key(1), 1, "0.4"),
        offering(&key(2), 1, "0.5"),
        offering(&key(2), 2, "0.6"),
        offering(&key(1), 1, "0.3"),
    ];
    insert(&mut pool, low.bytes.clone(), 0).unwrap();
    insert(&mut pool, high.bytes, 0).unwrap();
    insert(&mut pool, higher.bytes, 0).unwrap();
    assert!(matches!(pool.reason(&low.hash), Some(DropReason::Evicted)));
    assert!(pool.find(&low.hash).is_none());
    assert!(matches!(insert(&mut pool, lowest.bytes, 0), Err(AdmitError::Full)));
    assert!(pool.reason(&lowest.hash).is_none(), "its sender has the error");
    assert_eq!(pool.len(), 2);
}

#[test]
fn a_block_is_offered_no_more_bytes_than_it_has_room_for() {
    let (ledger, mut pool, _) = pool();
    let size = send(&key(1), 1, 1).bytes.len();
    for sequence in 1..=5 {
        insert(&mut pool, send(&key(1), sequence, 1).bytes, 0).unwrap();
    }
    let mut view = ledger.reader().state(At::Settled).unwrap();
    let offered = |pool: &Mempool, view: &mut _, bytes| pool.candidates(view, 10, bytes).unwrap().len();
    assert_eq!(offered(&pool, &mut view, size * 3), 3);
    assert_eq!(offered(&pool, &mut view, size * 3 - 1), 2);
    assert_eq!(offered(&pool, &mut view, size * 9), 5);
}

#[test]
fn the_best_offer_comes_first_and_each_sender_in_sequence() {
    let (ledger, mut pool, first) = pool();
    let [a1, a2, b1] =
        [offering(&key(1), 1, "0.4"), offering(&key(1), 2, "0.9"), offering(&key(2), 1, "0.5")];
    for raw in [&a2, &b1, &a1] {
        insert(&mut pool, raw.bytes.clone(), 0).unwrap();
    }
    let order = |pool: &Mempool, at| {
        let mut view = ledger.reader().state(at).unwrap();
        let chosen = pool.candidates(&mut view, 10, usize::MAX).unwrap();
        chosen.iter().map(|raw| raw.hash).collect::<Vec<Hash>>()
    };
    assert_eq!(order(&pool, At::Settled), [b1.hash, a1.hash, a2.hash]);
    // On a block that holds the first two, only what follows them is offered.
    let mut ledger = ledger;
    let (second, _) = extend(&mut ledger, first, &[Arc::new(b1), Arc::new(a1)]);
    let mut view = ledger.reader().state(At::Block(second)).unwrap();
    let chosen = pool.candidates(&mut view, 10, usize::MAX).unwrap();
    assert_eq!(chosen.iter().map(|raw| raw.hash).collect::<Vec<_>>(), [a2.hash]);
}

fn payment(sequence: u64) -> RawTx {
    let mut payment = ServicePayment::new(
        key(1).address(),
        key(2).address(),
        TFuelWei::whole(1),
        sequence,
        1,
        b"resource".to_vec(),
    );
    payment.fee = Coins::tfuel("0.3".parse().unwrap()).into();
    payment.sign_as_payer("privatenet", &key(1)).unwrap();
    Unsigned::new("privatenet", payment).sign(&key(2)).unwrap()
}

/// A ledger with a fund that payments can be made from.
fn with_fund(limits: MempoolLimits) -> (Ledger, Mempool, Hash) {
    let (mut ledger, mut pool, first) = pool_with(limits);
    let reserve = ReserveFund {
        fee: Coins::tfuel("0.3".parse().unwrap()).into(),
        source: TxInput::new(key(1).address(), Coins::tfuel(TFuelWei::whole(1000)), 1),
        collateral: Coins::tfuel(TFuelWei::whole(1001)).into(),
        resource_ids: vec![b"resource".to_vec()],
        duration: 300,
    };
    let reserve = Unsigned::new("privatenet", reserve).sign(&key(1)).unwrap();
    let (second, block) = extend(&mut ledger, first, &[Arc::new(reserve)]);
    assert_eq!(block.transactions.len(), 2);
    ledger.reached(Finality::Settled, &second).unwrap();
    pool.settled(&[block], 0).unwrap();
    (ledger, pool, second)
}

#[test]
fn payments_count_against_their_payee_and_are_offered_once() {
    let (mut ledger, mut pool, head) = with_fund(MempoolLimits { per_sender: 3, ..MempoolLimits::default() });
    for sequence in 1..=3 {
        insert(&mut pool, payment(sequence).bytes, 0).unwrap();
    }
    assert!(matches!(insert(&mut pool, payment(4).bytes, 0), Err(AdmitError::Full)));
    let (next, block) = extend(&mut ledger, head, &[Arc::new(payment(2))]);
    assert_eq!(block.transactions.len(), 2);
    // The block holds the second payment, which makes the first one void; neither is offered on top of it, and neither
    // is lost while it is not settled.
    let mut view = ledger.reader().state(At::Block(next)).unwrap();
    let offered = pool.candidates(&mut view, 10, usize::MAX).unwrap();
    assert_eq!(offered.iter().map(|raw| raw.hash).collect::<Vec<_>>(), [payment(3).hash]);
    assert_eq!(pool.len(), 3);
    ledger.reached(Finality::Settled, &next).unwrap();
    pool.settled(&[block], 0).unwrap();
    assert_eq!(pool.len(), 1);
    assert!(pool.reason(&payment(2).hash).is_none(), "it was settled");
    assert!(matches!(pool.reason(&payment(1).hash), Some(DropReason::Invalid(TxError::Transfer(_)))));
}

#[test]
fn what_waits_too_long_for_its_turn_falls_out() {
    let (_, mut pool, _) = pool();
    let late = send(&key(1), 3, 1);
    insert(&mut pool, late.bytes.clone(), 1_000).unwrap();
    pool.settled(&[], 60_000).unwrap();
    assert!(pool.find(&late.hash).is_some());
    pool.settled(&[], 75_000).unwrap();
    assert!(pool.find(&late.hash).is_none());
    assert!(matches!(
        pool.reason(&late.hash),
        Some(DropReason::Invalid(TxError::Sequence { got: 3, expected: 1 }))
    ));
}

#[test]
fn what_blocks_leave_out_again_and_again_falls_out_with_the_reason() {
    let (_, mut pool, _) = pool();
    let raw = send(&key(1), 1, 1);
    insert(&mut pool, raw.bytes.clone(), 0).unwrap();
    for _ in 0..2 {
        pool.left_out(&raw.hash, TxError::Unauthorized);
    }
    assert!(pool.find(&raw.hash).is_some());
    pool.left_out(&raw.hash, TxError::Unauthorized);
    assert!(pool.find(&raw.hash).is_none());
    assert!(matches!(pool.reason(&raw.hash), Some(DropReason::Invalid(TxError::Unauthorized))));
    // Sent again, it waits again and has no reason to be gone.
    insert(&mut pool, raw.bytes, 0).unwrap();
    assert!(pool.reason(&raw.hash).is_none());
}

/// Payments in a row from one wallet, numbered before any of them is settled.
#[test]
fn twenty_sends_in_a_row_are_taken_and_a_wrong_number_blocks_none() {
    let (mut ledger, mut pool, first) = pool();
    let reader = ledger.reader();
    let sequence = |reader: &theta_ledger::ledger::LedgerReader| {
        let mut state = reader.state(At::Settled).unwrap();
        state.account(key(1).address()).unwrap().unwrap().sequence
    };
    for number in 1..=20 {
        let raw = send(&key(1), number, 1);
        assert!(matches!(insert(&mut pool, raw.bytes.clone(), 0), Ok(Admitted::Ready(_))));
        let twice = insert(&mut pool, raw.bytes, 0).expect_err("it waits");
        assert_eq!(twice.to_string(), "Transaction already seen");
        // What waits counts at once for whoever asks for the next number, and for nobody else.
        assert_eq!(pool.next_sequence(key(1).address()).unwrap(), Some(number + 1));
        assert_eq!(sequence(&reader), 0);
    }
    assert!(matches!(
        insert(&mut pool, send(&key(1), 22, 1).bytes, 0),
        Ok(Admitted::Parked { missing: 21, .. })
    ));
    let mut view = reader.state(At::Settled).unwrap();
    let candidates = pool.candidates(&mut view, 100, usize::MAX).unwrap();
    assert_eq!(candidates.len(), 20);
    let (second, block) = extend(&mut ledger, first, &candidates);
    ledger.reached(Finality::Settled, &second).unwrap();
    pool.settled(&[block], 0).unwrap();
    assert_eq!(sequence(&reader), 20);
    let low = insert(&mut pool, send(&key(1), 20, 3).bytes, 0).expect_err("used");
    assert_eq!(low.to_string(), "ValidateInputAdvanced: Got 20, expected 21. (acc.seq=20)");
    assert!(matches!(insert(&mut pool, send(&key(1), 21, 1).bytes, 0), Ok(Admitted::Ready(_))));
    let mut view = reader.state(At::Settled).unwrap();
    assert_eq!(pool.candidates(&mut view, 100, usize::MAX).unwrap().len(), 2);
}

#[test]
fn a_replacement_in_the_middle_of_a_row_leaves_the_rest() {
    let (ledger, mut pool, _) = pool();
    let sender = key(1).address();
    let sequences = |pool: &Mempool| -> Vec<u64> {
        let mut view = ledger.reader().state(At::Settled).unwrap();
        let chosen = pool.candidates(&mut view, 10, usize::MAX).unwrap();
        chosen.iter().map(|raw| raw.transaction.sender().1).collect()
    };
    for sequence in 1..=5 {
        insert(&mut pool, offering(&key(1), sequence, "0.4").bytes, 0).unwrap();
    }
    let left = |pool: &mut Mempool| pool.preview(sender).unwrap().unwrap().balance.tfuel;
    let before = left(&mut pool);
    // One that costs more than there is behind the first is refused, and the row is as before.
    assert!(insert(&mut pool, offering(&key(1), 2, "2000000").bytes, 0).is_err());
    assert_eq!((left(&mut pool), pool.len()), (before, 5));
    let better = insert(&mut pool, offering(&key(1), 2, "0.6").bytes, 0).unwrap();
    assert!(matches!(better, Admitted::Ready(_)));
    assert_eq!(left(&mut pool), before.checked_sub("0.2".parse().unwrap()).unwrap());
    assert_eq!((pool.next_sequence(sender).unwrap(), sequences(&pool)), (Some(6), vec![1, 2, 3, 4, 5]));
    // What waits behind a gap waits on when it is replaced.
    insert(&mut pool, offering(&key(1), 8, "0.4").bytes, 0).unwrap();
    let parked = insert(&mut pool, offering(&key(1), 8, "0.6").bytes, 0);
    assert!(matches!(parked, Ok(Admitted::Parked { missing: 6, .. })));
    assert_eq!(pool.next_sequence(sender).unwrap(), Some(6));
}

#[test]
fn of_equal_offers_the_first_to_come_goes_first_and_the_last_makes_room() {
    let (ledger, mut waits, _) = pool();
    // Nobody's second comes before the other's first that was there earlier.
    let mut came = Vec::new();
    for sequence in 1..=4 {
        for sender in [2, 1] {
            let raw = offering(&key(sender), sequence, "0.4");
            came.push(raw.hash);
            insert(&mut waits, raw.bytes, 0).unwrap();
        }
    }
    let mut view = ledger.reader().state(At::Settled).unwrap();
    let mut chosen = |pool: &Mempool, count| {
        let chosen = pool.candidates(&mut view, count, usize::MAX).unwrap();
        chosen.iter().map(|raw| raw.hash).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&waits, 10), came);
    assert_eq!(chosen(&waits, 5), came[..5]);
    let better = offering(&key(1), 5, "0.5");
    insert(&mut waits, better.bytes, 0).unwrap();
    came.push(better.hash);
    assert_eq!(chosen(&waits, 10), came, "it stands behind the sender's others");

    let (_, mut full, _) = pool_with(MempoolLimits { transactions: 2, ..MempoolLimits::default() });
    let mut offer = |sender, sequence, fee| insert(&mut full, offering(&key(sender), sequence, fee).bytes, 0);
    offer(2, 1, "0.4").unwrap();
    offer(1, 1, "0.4").unwrap();
    assert!(matches!(offer(1, 2, "0.4"), Err(AdmitError::Full)));
    offer(2, 2, "0.5").unwrap();
    assert!(matches!(offer(2, 1, "0.4"), Err(AdmitError::Known)), "the older of the equal ones stayed");
}
