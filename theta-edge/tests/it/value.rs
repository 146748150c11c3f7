//! Money alone: purses, tills and the ledger's own rules, with no job in sight.

use std::sync::Arc;

use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash};
use theta_core::journal::MemDisk;
use theta_core::sign::SecretKey;
use theta_edge::chain::Fund;
use theta_edge::identity::NodeId;
use theta_edge::message::{Envelope, Message};
use theta_edge::payment::PayError;
use theta_edge::payment::book::Book;
use theta_edge::payment::purse::Purse;
use theta_edge::payment::receipt::Payment;
use theta_edge::payment::split::{BURN_ADDRESS, burning};
use theta_edge::payment::tick::TickError;
use theta_edge::payment::till::{Settings, Till};
use theta_edge::payment::watch::{Beacon, Say};
use theta_edge::provider::{Provider, Todo};
use theta_edge::worker;
use theta_ledger::tx::TxError;

use crate::chain::{CHAIN, MemChain, RESOURCE, fee};
use crate::world::key;

fn tfuel(amount: u64) -> TFuelWei {
    TFuelWei::whole(amount)
}

fn sum(parts: &[TFuelWei]) -> TFuelWei {
    parts.iter().try_fold(TFuelWei::ZERO, |sum, part| sum.checked_add(*part)).unwrap()
}

/// A chain where overspending is punished, with a payer's fund of 100 TFUEL and some payees.
pub(crate) struct Market {
    pub(crate) chain: MemChain,
    pub(crate) payer: SecretKey,
    pub(crate) sequence: u64,
}

impl Market {
    pub(crate) fn new(payees: &[u8]) -> Self {
        let (payer, mut chain) = (key(1), MemChain::devnet());
        chain.give(payer.address(), 1_000);
        let sequence = chain.reserve(&payer, 100);
        payees.iter().for_each(|payee| chain.give(key(*payee).address(), 10));
        Self { chain, payer, sequence }
    }

    pub(crate) fn fund(&mut self) -> Fund {
        self.chain.fund(self.payer.address(), self.sequence).expect("it is open")
    }

    /// One of the payer's purses: an honest payer has one.
    pub(crate) fn purse(&mut self) -> Purse {
        let mut purse = Purse::open(CHAIN, Arc::new(self.payer.clone()), MemDisk::default()).unwrap();
        purse.adopt(&self.fund()).unwrap();
        purse
    }

    pub(crate) fn till(&self, payee: u8) -> Till {
        Till::open(CHAIN, Arc::new(key(payee)), MemDisk::default()).unwrap()
    }
}

fn item(number: u8) -> Hash {
    Hash::repeat_byte(number)
}

fn pay(purse: &mut Purse, payee: u8, amount: u64) -> Payment {
    let job = item(payee);
    purse.promise(job, tfuel(amount)).unwrap();
    purse.pay(&job, key(payee).address(), job, tfuel(amount)).unwrap()
}

/// Two purses of one key and one fund sign more than it holds. The payees find out by talking, and the ledger punishes.
#[test]
fn an_overspend_is_proven_by_two_payees_and_punished_by_the_ledger() {
    let mut market = Market::new(&[2, 3]);
    let (mut one, mut other) = (market.purse(), market.purse());
    let payments = [pay(&mut one, 2, 60), pay(&mut other, 3, 50)];
    let fund = market.fund();
    let height = market.chain.height;
    let mut tills = [market.till(2), market.till(3)];
    let mut mail: Vec<(usize, Say)> = Vec::new();
    for (index, payment) in payments.iter().enumerate() {
        assert_eq!(tills[index].accept(payment, &fund, height).unwrap(), payment.receipt.amount);
        mail.extend(tills[index].speak(0, &fund).map(|say| (index, say)));
    }
    for _ in 0..10 {
        for (from, say) in std::mem::take(&mut mail) {
            let said = match say {
                Say::Beacon(receipt) => {
                    let beacon = Beacon::sign(&receipt, &key(2 + from as u8)).unwrap();
                    let mut forged = beacon.clone();
                    forged.bucket += 1;
                    assert!(matches!(tills[1 - from].hear(0, &forged, &fund), Err(PayError::Signature)));
                    tills[1 - from].hear(0, &beacon, &fund).unwrap()
                }
                Say::Show(receipt) => {
                    let mut forged = receipt.clone();
                    forged.amount = tfuel(99);
                    assert!(matches!(tills[1 - from].see(0, &forged, &fund), Err(PayError::Signature)));
                    tills[1 - from].see(0, &receipt, &fund).unwrap()
                }
                _ => None,
            };
            mail.extend(said.map(|say| (1 - from, say)));
        }
    }
    assert!(tills.iter().all(|till| till.is_overspent(market.payer.address(), market.sequence)));
    // Both would settle at once, the claims below a hundred fees as well.
    assert_eq!(tills[1].due(height, fee(), false).len(), 1);

    let proof = tills[0].overspending(market.payer.address(), market.sequence, &[]).unwrap();
    assert_eq!(proof.payments.len(), 2);
    let before = [1, 2, 3].map(|number| market.chain.balance(key(number).address()));
    let raw = tills[0].slash(market.payer.address(), &proof, 1).unwrap();
    market.chain.submit(&raw.bytes).unwrap();
    let after = [1, 2, 3].map(|number| market.chain.balance(key(number).address()));
    assert!(
        market.chain.fund(market.payer.address(), market.sequence).is_none(),
        "fund and collateral are gone"
    );
    assert_eq!(after[0], before[0], "the payer gets nothing back");
    let gain = |index: usize| after[index].checked_sub(before[index]).unwrap();
    // 100 TFUEL in the proportion of 60 to 50, rounded down.
    let part = |claim: u64| {
        tfuel(100)
            .checked_ratio(theta_core::hash::U256::from(claim), theta_core::hash::U256::from(110))
            .unwrap()
    };
    assert_eq!((gain(1), gain(2)), (part(60), part(50)));
    assert!(matches!(
        market.chain.submit(&raw.bytes),
        Err(TxError::Overspending(_) | TxError::Sequence { .. })
    ));
}

/// A payer pays an account of its own with everything and settles it first: no beacon tells of that, the chain does.
#[test]
fn an_overspend_in_favour_of_a_silent_friend_is_proven_with_what_settled() {
    let mut market = Market::new(&[2, 3]);
    let (mut one, mut other) = (market.purse(), market.purse());
    let (friend, honest) = (pay(&mut one, 3, 100), pay(&mut other, 2, 40));
    let fund = market.fund();
    let height = market.chain.height;
    let mut till = market.till(2);
    till.accept(&honest, &fund, height).unwrap();
    till.speak(0, &fund);
    assert!(till.overspending(market.payer.address(), market.sequence, &[]).is_none());
    let raw = friend.receipt.settle(&key(3), fee()).unwrap();
    market.chain.submit(&raw.bytes).unwrap();
    let fund = market.fund();
    till.observe(&fund).unwrap();
    assert_eq!(till.overspenders().collect::<Vec<_>>(), [(market.payer.address(), market.sequence)]);
    assert!(
        till.overspending(market.payer.address(), market.sequence, &[]).is_none(),
        "the own receipt alone"
    );
    let settled = market.chain.settled(market.payer.address(), market.sequence);
    let proof = till.overspending(market.payer.address(), market.sequence, &settled).unwrap();
    let raw = till.slash(market.payer.address(), &proof, 1).unwrap();
    market.chain.submit(&raw.bytes).unwrap();
    assert!(market.chain.fund(market.payer.address(), market.sequence).is_none(), "the collateral is burned");
    // The same from a receipt that came after the settlement and could never be paid.
    let mut market = Market::new(&[2, 3]);
    let (mut one, mut other) = (market.purse(), market.purse());
    let (friend, honest) = (pay(&mut one, 3, 100), pay(&mut other, 2, 40));
    let raw = friend.receipt.settle(&key(3), fee()).unwrap();
    market.chain.submit(&raw.bytes).unwrap();
    let fund = market.fund();
    let mut till = market.till(2);
    assert!(matches!(till.accept(&honest, &fund, market.chain.height), Err(PayError::Uncovered)));
    let settled = market.chain.settled(market.payer.address(), market.sequence);
    assert!(till.overspending(market.payer.address(), market.sequence, &settled).is_some());
}

/// An honest payer that says the same to everybody is never slashed, whatever is made of its receipts.
#[test]
fn receipts_of_an_honest_purse_prove_nothing() {
    let mut market = Market::new(&[2, 3]);
    let mut purse = market.purse();
    let payments = [pay(&mut purse, 2, 60), pay(&mut purse, 3, 40)];
    let fund = market.fund();
    let mut till = market.till(2);
    till.accept(&payments[0], &fund, market.chain.height).unwrap();
    till.speak(0, &fund);
    till.see(0, &payments[1].receipt, &fund).unwrap();
    assert!(till.overspending(market.payer.address(), market.sequence, &[]).is_none());
    // Even doubled, the ledger counts each payee and sequence once.
    let payments = payments.iter().map(|payment| payment.receipt.service_payment());
    let payments = payments.clone().chain(payments).collect();
    let proof = theta_ledger::tx::OverspendingProof { reserve_sequence: market.sequence, payments };
    let raw = till.slash(market.payer.address(), &proof, 1).unwrap();
    assert!(matches!(market.chain.submit(&raw.bytes), Err(TxError::Overspending(_))));
}

/// Ticks between receipts, crashes of both sides, a settlement in the middle: what the payee counts is what it is paid.
#[test]
fn ticks_are_rolled_up_and_settle_to_the_wei() {
    let mut market = Market::new(&[2]);
    let (payer_disk, payee_disk) = (MemDisk::default(), MemDisk::default());
    let open_purse = || Purse::open(CHAIN, Arc::new(key(1)), payer_disk.clone()).unwrap();
    let open_till = || Till::open(CHAIN, Arc::new(key(2)), payee_disk.clone()).unwrap();
    let (mut purse, mut till) = (open_purse(), open_till());
    purse.adopt(&market.fund()).unwrap();
    let (job, payee, payer) = (item(1), key(2).address(), key(1).address());
    let unit = TFuelWei::wei(30_000_000_000_000_001_u64);
    purse.promise(job, tfuel(60)).unwrap();
    let payment = purse.open_ticks(&job, payee, unit, 1_000, [9; 32]).unwrap();
    let (fund, height) = (market.fund(), market.chain.height);
    assert_eq!(till.accept(&payment, &fund, height).unwrap(), TFuelWei::ZERO, "no work yet");
    let mut ticked = 0_u64;
    let mut run = |purse: &mut Purse, till: &mut Till, count: u64| {
        for _ in 0..count {
            let tick = purse.tick(&payee).unwrap();
            assert_eq!(till.tick(7, payer, &tick).unwrap(), unit);
            assert_eq!(till.tick(7, payer, &tick).unwrap(), TFuelWei::ZERO, "once");
        }
        ticked += count;
        unit.checked_mul(ticked).unwrap()
    };
    let earned = run(&mut purse, &mut till, 100);
    let book = till.earnings().unwrap();
    assert_eq!((book.exposed, book.accrued, book.earned), (earned, TFuelWei::ZERO, earned));
    assert_eq!(till.exposure(payer, market.sequence).since, 7);
    assert!(till.may_serve(2_006, payer, market.sequence) && !till.may_serve(2_007, payer, market.sequence));

    let rolled = purse.roll_up(&payee).unwrap();
    assert_eq!(till.accept(&rolled, &fund, height).unwrap(), earned);
    let book = till.earnings().unwrap();
    assert_eq!((book.exposed, book.accrued, book.earned), (TFuelWei::ZERO, earned, earned));
    assert!(
        matches!(till.accept(&payment, &fund, height), Err(PayError::Stale)),
        "the old receipt is worth less"
    );

    // Both crash in the middle of a window; the payee has kept every 64th tick.
    let earned = run(&mut purse, &mut till, 70);
    drop((purse, till));
    let (mut purse, mut till) = (open_purse(), open_till());
    assert_eq!(till.exposure(payer, market.sequence).ticks, 64);
    let last = till.last_tick(payer, market.sequence).unwrap();
    purse.shown_tick(&payee, &last).unwrap();
    for _ in 0..6 {
        let tick = purse.tick(&payee).unwrap();
        assert_eq!(till.tick(9, payer, &tick).unwrap(), unit);
    }
    let rolled = purse.roll_up(&payee).unwrap();
    assert_eq!(rolled.receipt.amount, earned);
    till.accept(&rolled, &fund, height).unwrap();

    // Settled in the middle, the chain of ticks goes on in the next sequence.
    let due = till.due(height, fee(), true);
    let raw = till.settle(&due[0], &fund, fee(), height).unwrap();
    market.chain.submit(&raw.bytes).unwrap();
    let fund = market.fund();
    assert_eq!(till.observe(&fund).unwrap(), earned);
    assert!(purse.observe(&fund).unwrap().is_empty());
    let earned = run(&mut purse, &mut till, 5);
    let rolled = purse.close_ticks(&payee).unwrap().unwrap();
    assert_eq!(rolled.receipt.payment_sequence, 2);
    till.accept(&rolled, &fund, height).unwrap();
    let book = till.earnings().unwrap();
    assert!(book.balances());
    assert_eq!(book.earned, earned);
    assert_eq!(book.accrued, unit.checked_mul(5).unwrap());
    assert_eq!(book.settled, earned.checked_sub(book.accrued).unwrap().checked_sub(fee()).unwrap());
    let statement = purse.statement().unwrap();
    assert_eq!(sum(&[statement.signed, statement.settled]), earned);
    purse.release(&job).unwrap();
    assert_eq!(purse.free(), tfuel(100).checked_sub(earned).unwrap());
}

#[test]
fn a_till_takes_no_forged_foreign_or_unpaid_tick() {
    let mut market = Market::new(&[2]);
    let mut purse = market.purse();
    let mut till = market.till(2);
    let (job, payee, payer) = (item(1), key(2).address(), key(1).address());
    purse.promise(job, tfuel(60)).unwrap();
    let payment = purse.open_ticks(&job, payee, tfuel(1), 20, [9; 32]).unwrap();
    let (fund, height) = (market.fund(), market.chain.height);
    let tick = purse.tick(&payee).unwrap();
    assert!(matches!(till.tick(0, payer, &tick), Err(PayError::Tick(TickError::Anchor))), "no receipt yet");
    till.accept(&payment, &fund, height).unwrap();
    let wrong = theta_edge::payment::purse::Tick { word: item(3), ..tick };
    assert!(matches!(till.tick(0, payer, &wrong), Err(PayError::Tick(TickError::Word(1)))));
    assert!(matches!(till.tick(0, key(3).address(), &tick), Err(PayError::Tick(TickError::Anchor))));
    assert_eq!(till.tick(0, payer, &tick).unwrap(), tfuel(1));
    // A payer that starts another chain has to pay for the first.
    let mut fresh = market.purse();
    fresh.promise(job, tfuel(60)).unwrap();
    let other = fresh.open_ticks(&job, payee, tfuel(1), 20, [8; 32]).unwrap();
    assert!(matches!(till.accept(&other, &fund, height), Err(PayError::Rolled { .. })));
    // More ticks than the fund can pay are worth nothing.
    let mut huge = market.purse();
    huge.promise(job, tfuel(100)).unwrap();
    let huge = huge.open_ticks(&job, payee, tfuel(1), 100, [8; 32]).unwrap();
    let spent = Fund { used: tfuel(1), ..fund };
    assert!(matches!(market.till(2).accept(&huge, &spent, height), Err(PayError::Uncovered)));
}

#[test]
fn the_burn_share_is_insisted_on_and_booked_as_the_ledger_divides() {
    let mut market = Market::new(&[2, 4]);
    let mut purse = market.purse();
    let settings = Settings { burn_share: 25, ..Settings::default() };
    let mut till = Till::open_with(CHAIN, Arc::new(key(2)), MemDisk::default(), settings).unwrap();
    let payment = pay(&mut purse, 2, 59);
    let (fund, height) = (market.fund(), market.chain.height);
    assert!(matches!(till.accept(&payment, &fund, height), Err(PayError::NoBurn { burned: 0, least: 25 })));
    let creator = Address::repeat_byte(0xcc);
    market.chain.split(&key(4), RESOURCE, burning(&[(creator, 10)]).unwrap());
    till.set_rule(RESOURCE, market.chain.rule(RESOURCE));
    till.accept(&payment, &fund, height).unwrap();
    let due = till.due(height, fee(), true);
    let before = market.chain.balance(key(2).address());
    let raw = till.settle(&due[0], &fund, fee(), height).unwrap();
    market.chain.submit(&raw.bytes).unwrap();
    till.observe(&market.fund()).unwrap();
    let book = till.earnings().unwrap();
    assert!(book.balances());
    assert_eq!(book.burned, market.chain.balance(BURN_ADDRESS));
    assert_eq!(book.shared, market.chain.balance(creator));
    let income = market.chain.balance(key(2).address()).checked_sub(before).unwrap();
    assert_eq!(book.settled, income, "what the book says is what the account has");
    assert_eq!(sum(&[book.settled, book.burned, book.shared, book.fees]), tfuel(59));
}

#[test]
fn a_claim_that_leaves_less_than_the_fee_is_not_handed_in_and_grows() {
    let mut market = Market::new(&[2, 4]);
    let mut purse = market.purse();
    let mut till = Till::open(CHAIN, Arc::new(key(2)), MemDisk::default()).unwrap();
    let (fund, height) = (market.fund(), market.chain.height);
    market.chain.split(&key(4), RESOURCE, burning(&[]).unwrap());
    till.set_rule(RESOURCE, market.chain.rule(RESOURCE));
    till.accept(&pay(&mut purse, 2, 5), &fund, height).unwrap();
    // A quarter is burned, so 5 leave 3.75.
    assert!(till.due(height, tfuel(4), true).is_empty());
    let more = item(9);
    purse.promise(more, tfuel(1)).unwrap();
    let payment = purse.pay(&more, key(2).address(), more, tfuel(1)).unwrap();
    till.accept(&payment, &fund, height).unwrap();
    assert_eq!(till.due(height, tfuel(4), true)[0].amount, tfuel(6));
}

#[test]
fn what_never_settles_is_booked_as_lost_also_after_a_restart() {
    let mut market = Market::new(&[2]);
    let mut purse = market.purse();
    let disk = MemDisk::default();
    let mut till = Till::open(CHAIN, Arc::new(key(2)), disk.clone()).unwrap();
    let fund = market.fund();
    till.accept(&pay(&mut purse, 2, 5), &fund, market.chain.height).unwrap();
    till.forget_ended(fund.end_height + 1).unwrap();
    let lost = Book { earned: tfuel(5), lost: tfuel(5), ..Book::default() };
    assert_eq!(till.earnings().unwrap(), lost);
    drop(till);
    assert_eq!(Till::open(CHAIN, Arc::new(key(2)), disk).unwrap().earnings().unwrap(), lost);
}

#[test]
fn claims_are_settled_in_time_and_the_largest_first() {
    let mut market = Market::new(&[2, 3]);
    let (mut purse, mut till) = (market.purse(), market.till(2));
    let payer = market.payer.address();
    let fund = market.fund();
    let height = market.chain.height;
    till.accept(&pay(&mut purse, 2, 20), &fund, height).unwrap();
    assert!(till.due(height, fee(), false).is_empty(), "below a hundred fees");
    // Another of the payer's funds, with a larger claim.
    let second = market.chain.reserve(&market.payer.clone(), 100);
    let second_fund = market.chain.fund(payer, second).unwrap();
    let mut next = Purse::open(CHAIN, Arc::new(key(1)), MemDisk::default()).unwrap();
    next.adopt(&second_fund).unwrap();
    till.accept(&pay(&mut next, 2, 31), &second_fund, height).unwrap();
    let due = |till: &Till, height| -> Vec<u64> {
        till.due(height, fee(), false).iter().map(|due| due.reserve_sequence).collect()
    };
    assert_eq!(due(&till, height), [second]);
    assert_eq!(due(&till, fund.end_height - 200), [second]);
    assert_eq!(due(&till, fund.end_height - 199), [second, market.sequence], "before the fund ends");
    assert_eq!(due(&till, fund.end_height + 1), [second], "too late");
    // A fund that is nearly spent, as the others say, is settled at once.
    till.speak(0, &fund);
    till.see(0, &pay(&mut purse, 3, 64).receipt, &fund).unwrap();
    assert_eq!(due(&till, height), [second, market.sequence]);
}

#[test]
fn payees_talk_by_messages_and_a_payer_that_overspends_is_served_no_more() {
    let mut market = Market::new(&[2, 3]);
    let (mut one, mut other) = (market.purse(), market.purse());
    let payments = [pay(&mut one, 2, 60), pay(&mut other, 3, 50)];
    let fund = market.fund();
    let height = market.chain.height;
    let mut nodes: Vec<Provider> = [2, 3]
        .map(|byte| {
            let till = market.till(byte);
            Provider::new(CHAIN, Arc::new(key(byte)), worker::Settings::default(), [byte; 32], till)
        })
        .into();
    let ids = [2, 3].map(|byte| NodeId::of(&key(byte)));
    let mut mail: Vec<(usize, Vec<u8>)> = Vec::new();
    for (index, payment) in payments.iter().enumerate() {
        let message = Message::Payment(payment.clone());
        mail.push((index, Envelope::seal(CHAIN, &market.payer, ids[index], &message).unwrap()));
    }
    let mut accused = [false; 2];
    for _ in 0..20 {
        for (to, envelope) in std::mem::take(&mut mail) {
            let mut todo = nodes[to].receive(0, &envelope).unwrap();
            while let Some(next) = todo.pop() {
                match next {
                    Todo::LookUp(ask) => {
                        todo.extend(nodes[to].looked_up(0, ask, Some(&fund), height).unwrap());
                    }
                    Todo::Tell(message) => {
                        mail.push((1 - to, nodes[to].envelope(ids[1 - to], &message).unwrap()));
                    }
                    Todo::Overspent { payer, reserve_sequence } => {
                        assert_eq!((payer, reserve_sequence), (market.payer.address(), market.sequence));
                        accused[to] = true;
                    }
                    _ => {}
                }
            }
        }
    }
    assert_eq!(accused, [true; 2]);
    let pool = theta_edge::job::PoolRef {
        payer: market.payer.address(),
        reserve_sequence: market.sequence,
        resource_id: RESOURCE.into(),
    };
    assert!(matches!(
        nodes[0].till().covers(0, Some(&fund), &pool, tfuel(1), height),
        Err(PayError::Uncovered)
    ));
    let raw = nodes[1].slash(market.payer.address(), market.sequence, &[], 1).unwrap().unwrap();
    market.chain.submit(&raw.bytes).unwrap();
}
