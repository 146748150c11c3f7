//! The load driver against a devnet.

use theta_core::spec::ChainSpec;
use theta_evm::Evm;
use theta_node::{
    devnet::TEST_MNEMONIC,
    load::{self, Kind, Pace, Plan, Target},
};
use theta_sdk::hd::{self, Path};

use super::devnet_with;

fn plan(kind: Kind, pace: Pace) -> Plan {
    Plan {
        kind,
        pace,
        seconds: 7,
        batch: 4,
        connections: 1,
        senders: (0..4).map(|index| hd::derive(TEST_MNEMONIC, Path::Ethereum(index)).unwrap()).collect(),
        receivers: 100,
        seed: 7,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_offered_settles_and_the_books_balance() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = devnet_with(folder.path(), ChainSpec::devnet(), std::sync::Arc::new(Evm)).await;
    let target = Target {
        theta: devnet.nodes.iter().map(|node| node.theta_url()).collect(),
        ethereum: devnet.nodes.iter().map(|node| node.eth_url()).collect(),
        pids: vec![std::process::id()],
    };
    let native = load::run(&target, &plan(Kind::Send, Pace::Rate(30.0)), |_| {}).await.unwrap();
    assert_eq!(native.wrong, Vec::<String>::new());
    assert_eq!((native.offered, native.accepted, native.settled), (210, 210, 210));
    assert!(native.latency_ms.p50 > 0.0 && native.latency_ms.p50 <= native.latency_ms.max, "{native:?}");
    assert!(native.cpu_micros_per_transaction.unwrap() > 0.0);

    // The same as an Ethereum wallet sends it, told by the Ethereum side alone.
    let ethereum = Target { theta: Vec::new(), ..target.clone() };
    let transfers = load::run(&ethereum, &plan(Kind::Send, Pace::Closed(20)), |_| {}).await.unwrap();
    assert_eq!(transfers.wrong, Vec::<String>::new());
    assert!(transfers.settled > 0 && transfers.settled == transfers.accepted, "{transfers:?}");
}
