//! Nodes that come late: by every block from many peers, and by a snapshot.

use std::{sync::Arc, time::Duration};

use theta_core::{hash::Hash, spec::ChainSpec};
use theta_ledger::{
    ledger::{At, LedgerReader},
    vm::NoContracts,
};
use theta_node::{
    devnet::{Devnet, DevnetConfig, TEST_MNEMONIC},
    node::Node,
};

use super::newcomer;

/// More than several answers to a fetch hold, so that ranges of many peers are on their way at once.
const LENGTH: u64 = 450;

fn root(reader: &LedgerReader, height: u64) -> Hash {
    reader.block(At::Height(height)).unwrap().unwrap().block.header.state_root
}

async fn reaches(node: &Node, height: u64) {
    let reader = node.handle().reader;
    for _ in 0..1_200 {
        if reader.settled().header.height >= height {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("stands at {}, not at {height}", reader.settled().header.height);
}

#[tokio::test(flavor = "multi_thread")]
async fn latecomers_reach_the_head_by_all_blocks_and_by_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let network = |block_interval_ms| DevnetConfig {
        spec: ChainSpec::devnet(),
        validators: 1,
        guardians: 1,
        accounts: 2,
        mnemonic: TEST_MNEMONIC.to_owned(),
        data_dir: folder.path().to_owned(),
        rpc_port: 0,
        eth_rpc_port: 0,
        block_interval_ms,
        vm: Arc::new(NoContracts),
    };
    {
        // A long chain in a short time.
        let devnet = Devnet::start(network(5)).await.unwrap();
        reaches(&devnet.nodes[0].node, LENGTH).await;
    }
    let devnet = Devnet::start(network(400)).await.unwrap();

    // One that has it all and makes snapshots, so that there are two to ask.
    let first = newcomer(&devnet, &folder.path().join("first"), 0x61, |config| {
        config.snapshot_every = Some(100);
    })
    .await;
    reaches(&first, LENGTH).await;
    let peers = first.handle().addresses().to_vec();
    let second = newcomer(&devnet, &folder.path().join("second"), 0x62, |config| {
        config.peers.extend(peers.clone());
    })
    .await;
    reaches(&second, LENGTH).await;
    let third = newcomer(&devnet, &folder.path().join("third"), 0x63, |config| {
        config.peers.extend(peers);
        config.begin_with_snapshot = true;
    })
    .await;
    let reader = third.handle().reader;
    let mut heights = 1..=reader.settled().header.height;
    let begun = heights.find(|height| reader.block(At::Height(*height)).unwrap().is_some());
    let begun = begun.expect("more than the genesis");
    assert!(begun > 100, "it began at {begun}, not with a snapshot");
    // Past checkpoints whose headers hold votes for one below the snapshot's end.
    let head = devnet.nodes[0].node.handle().reader.settled().header.height + 25;
    let expected = devnet.nodes[0].node.handle().reader;
    for node in [&devnet.nodes[0].node, &first, &second, &third] {
        reaches(node, head).await;
        let reader = node.handle().reader;
        assert_eq!(root(&reader, head), root(&expected, head));
        assert_eq!(node.handle().failure(), None);
    }
}
