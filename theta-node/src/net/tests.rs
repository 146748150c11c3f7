//! Nodes of the network alone, without chains.

use std::time::Duration;

use libp2p::Multiaddr;
use theta_core::vote::Vote;

use super::*;

/// A node of the network without a chain; it leaves when this is dropped.
pub(crate) struct Lone {
    pub(crate) id: PeerId,
    pub(crate) port: Port,
    pub(crate) deliveries: Receiver<Delivery>,
    stop: watch::Sender<bool>,
}

impl Drop for Lone {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

pub(crate) fn config(number: u8, listen: &str, peers: Vec<Multiaddr>) -> NetConfig {
    NetConfig {
        genesis: Hash::repeat_byte(1),
        key: SecretKey::from_bytes(&[number; 32]).expect("a key"),
        listen: vec![listen.parse().expect("an address")],
        peers,
        discover: false,
        network_key: None,
    }
}

pub(crate) async fn open(config: NetConfig) -> Lone {
    let id = peer_id(&config.key).expect("a name");
    let (stop, stopped) = watch::channel(false);
    let (port, deliveries) = Port::open(config, stopped).await.expect("it listens");
    Lone { id, port, deliveries, stop }
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn transaction(bytes: &[u8]) -> Packet {
    Packet::Transactions(vec![bytes.to_vec()])
}

/// The next transaction that comes, within a time.
fn next(lone: &Lone, wait: Duration) -> Option<(Vec<u8>, Delivery)> {
    let delivery = lone.deliveries.recv_timeout(wait).ok()?;
    let Packet::Transactions(raw) = &delivery.packet else { panic!("only transactions were sent") };
    Some((raw[0].clone(), delivery))
}

const SOON: Duration = Duration::from_secs(5);
const LONG_ENOUGH: Duration = Duration::from_millis(1_500);

/// Tells until somebody hears it: who has just connected does not know yet what others want to hear.
async fn heard(from: &Lone, at: &Lone, bytes: &[u8]) -> Delivery {
    for round in 0..20_u8 {
        let bytes = [bytes, &[round]].concat();
        from.port.broadcast(&transaction(&bytes));
        if let Some((got, delivery)) = tokio::task::block_in_place(|| next(at, Duration::from_millis(300))) {
            assert_eq!(got[..got.len() - 1], bytes[..bytes.len() - 1]);
            return delivery;
        }
    }
    panic!("never heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_goes_on_only_after_a_verdict() {
    let middle = open(config(1, "/memory/0", Vec::new())).await;
    let near = open(config(2, "/memory/0", middle.port.addresses().to_vec())).await;
    let far = open(config(3, "/memory/0", middle.port.addresses().to_vec())).await;
    until("all are connected", || middle.port.others().len() == 2).await;
    // Nobody looks for others, so these two only know the one between them.
    assert_eq!((near.port.others().len(), far.port.others().len()), (1, 1));
    for (verdict, passed) in [(Verdict::Reject, false), (Verdict::Ignore, false), (Verdict::Accept, true)] {
        let told = [b"a transaction", format!("{verdict:?}").as_bytes()].concat();
        let delivery = heard(&near, &middle, &told).await;
        assert_eq!(middle.port.peer_id(delivery.from), Some(near.id));
        middle.port.judge(&delivery.ticket, verdict);
        let got = tokio::task::block_in_place(|| next(&far, if passed { SOON } else { LONG_ENOUGH }));
        assert_eq!(got.is_some(), passed, "{verdict:?}");
        if let Some((bytes, _)) = got {
            assert!(bytes.starts_with(&told));
        }
    }
}

/// A validator is reached by the account of its key, alone, and only while it is connected.
#[tokio::test(flavor = "multi_thread")]
async fn a_vote_for_one_validator_reaches_it_alone() {
    let voter = open(config(1, "/memory/0", Vec::new())).await;
    let proposer = open(config(2, "/memory/0", voter.port.addresses().to_vec())).await;
    let other = open(config(3, "/memory/0", voter.port.addresses().to_vec())).await;
    until("all are connected", || voter.port.others().len() == 2).await;
    let message = Message::Vote(Vote::unsigned(Hash::repeat_byte(1), 2, 3, Address::repeat_byte(4)));
    assert!(voter.port.tell(config(2, "/memory/0", Vec::new()).key.address(), &message));
    let got = tokio::task::block_in_place(|| proposer.deliveries.recv_timeout(SOON)).expect("a vote");
    assert!(matches!(got.packet, Packet::Message(got) if got == message));
    assert!(tokio::task::block_in_place(|| other.deliveries.recv_timeout(LONG_ENOUGH)).is_err());
    assert!(!voter.port.tell(config(4, "/memory/0", Vec::new()).key.address(), &message), "nobody's");
    drop(proposer);
    until("it is gone", || voter.port.others().len() == 1).await;
    assert!(!voter.port.tell(config(2, "/memory/0", Vec::new()).key.address(), &message), "gone");
}

/// Where a node listens, and how another one has its address.
async fn a_fetch_is_answered(listen: &str, named: impl Fn(&Multiaddr) -> Multiaddr) {
    let one = open(config(1, listen, Vec::new())).await;
    let two = open(config(2, listen, one.port.addresses().iter().map(named).collect())).await;
    until("they are connected", || two.port.others().len() == 1).await;
    let to = two.port.others()[0];
    assert!(two.port.fetch(to, Hash::repeat_byte(9), 5));
    assert!(!two.port.fetch(to + 7, Hash::repeat_byte(9), 5), "nobody has this number");
    let asked = tokio::task::block_in_place(|| one.deliveries.recv_timeout(SOON)).expect("a question");
    let Packet::Fetch { block, above } = asked.packet else { panic!("{asked:?}") };
    assert_eq!((block, above), (Hash::repeat_byte(9), 5));
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/privatenet.genesis"));
    let genesis = theta_ledger::genesis::Genesis::read(&file.expect("a fixture"), None).expect("whole");
    let block = Arc::new(Block { header: genesis.header, transactions: Vec::new() });
    one.port.reply(&asked.ticket, vec![block.clone()]);
    let answer = tokio::task::block_in_place(|| two.deliveries.recv_timeout(SOON)).expect("an answer");
    let Packet::Blocks(blocks) = answer.packet else { panic!("{answer:?}") };
    assert_eq!((answer.from, blocks), (to, vec![block]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_answered_over_tcp() {
    a_fetch_is_answered("/ip4/127.0.0.1/tcp/0", Clone::clone).await;
}

#[cfg(feature = "quic")]
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_answered_over_quic() {
    a_fetch_is_answered("/ip4/127.0.0.1/udp/0/quic-v1", Clone::clone).await;
}

#[cfg(feature = "dns")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_found_by_the_name_of_its_host() {
    let named =
        |address: &Multiaddr| address.to_string().replace("/ip4/127.0.0.1/", "/dns4/localhost/").parse();
    a_fetch_is_answered("/ip4/127.0.0.1/tcp/0", |address| named(address).expect("an address")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_chain_or_without_the_networks_key_stay_outside() {
    let one = open(config(1, "/ip4/127.0.0.1/tcp/0", Vec::new())).await;
    let mut other = config(2, "/memory/0", one.port.addresses().to_vec());
    other.genesis = Hash::repeat_byte(2);
    let other = open(other).await;
    let mut locked = config(3, "/memory/0", one.port.addresses().to_vec());
    locked.network_key = Some([7; 32]);
    let locked = open(locked).await;
    let friend = open(config(4, "/memory/0", one.port.addresses().to_vec())).await;
    until("the friend is in", || {
        let ids: Vec<_> = one.port.others().into_iter().filter_map(|peer| one.port.peer_id(peer)).collect();
        ids == [friend.id]
    })
    .await;
    for _ in 0..5 {
        other.port.broadcast(&transaction(b"of another chain"));
        locked.port.broadcast(&transaction(b"without the key"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(locked.port.others().is_empty());
    assert!(one.deliveries.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_the_protocol_often_is_cut_off() {
    let one = open(config(1, "/memory/0", Vec::new())).await;
    let bad = open(config(2, "/memory/0", one.port.addresses().to_vec())).await;
    let good = open(config(3, "/memory/0", one.port.addresses().to_vec())).await;
    until("both are connected", || one.port.others().len() == 2).await;
    let number = one.port.others().into_iter().find(|peer| one.port.peer_id(*peer) == Some(bad.id));
    let number = number.expect("it is connected");
    for _ in 0..10 {
        one.port.penalize(number);
    }
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(one.port.others().len(), 2, "some faults are forgiven");
    for _ in 0..25 {
        one.port.penalize(number);
    }
    let left = || one.port.others().into_iter().filter_map(|peer| one.port.peer_id(peer)).collect::<Vec<_>>();
    until("the bad one is out", || left() == [good.id]).await;
    // It dials again every other second.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(left(), [good.id]);
}
