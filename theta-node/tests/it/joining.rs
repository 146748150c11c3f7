//! A newcomer joins a running network, somebody stakes behind it, and its votes earn.

use std::time::Duration;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::Address,
    spec::ChainSpec,
};
use theta_ledger::{
    ledger::{At, LedgerReader},
    tx::{Purpose, RawTx, Transaction},
};
use theta_sdk::{
    client::Client,
    rpc,
    wallet::{Wallet, minimum_fee},
};

use super::{devnet, newcomer};

/// What the block at a height pays an account.
fn paid(reader: &LedgerReader, height: u64, to: Address) -> TFuelWei {
    let block = reader.block(At::Height(height)).unwrap().unwrap().block;
    let mut sum = TFuelWei::ZERO;
    for bytes in &block.transactions {
        if let Transaction::Coinbase(coinbase) = &RawTx::decode(bytes.clone()).unwrap().transaction {
            for output in coinbase.outputs.iter().filter(|output| output.address == to) {
                let tfuel = output.coins.tfuel.to_string().parse::<u128>().unwrap();
                sum = sum.checked_add(TFuelWei::wei(tfuel)).unwrap();
            }
        }
    }
    sum
}

fn balance(reader: &LedgerReader, height: u64, of: Address) -> TFuelWei {
    let mut state = reader.state(At::Height(height)).unwrap();
    state.load(of).unwrap().map_or(TFuelWei::ZERO, |account| account.balance.tfuel)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_with_a_stake_signs_checkpoints_and_is_paid() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = devnet(folder.path(), ChainSpec::devnet()).await;
    let guardian = newcomer(&devnet, &folder.path().join("guardian"), 0x51, |_| {}).await;
    let elite = newcomer(&devnet, &folder.path().join("elite"), 0x52, |_| {}).await;
    let client = Client::http(devnet.nodes[0].theta_url()).unwrap();
    let reader = devnet.nodes[0].node.handle().reader;
    let stakers = [0, 1].map(|index| Wallet::new("privatenet", devnet.accounts[index].key.clone()));
    for (wallet, node, purpose, stake) in [
        // 1,000 would do, but THETA is paid by lot, in proportion to all that is staked.
        (&stakers[0], &guardian, Purpose::GUARDIAN, Coins::theta(ThetaWei::whole(20_000_000))),
        (&stakers[1], &elite, Purpose::ELITE_EDGE, Coins::tfuel(TFuelWei::whole(10_000))),
    ] {
        let summary = node.handle().summary;
        let deposit = wallet.deposit_behind(1, &summary, purpose, stake, minimum_fee());
        let sent = client.broadcast(&deposit.sign(wallet.signer()).unwrap()).await.unwrap();
        assert!(sent.block.is_some());
    }
    let mut found = [None, None];
    for height in 1..100 {
        // Blocks follow each other every 300 ms.
        for _ in 0..200 {
            if reader.settled().header.height >= height {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (staker, found) in stakers.iter().zip(&mut found) {
            let reward = paid(&reader, height, staker.address());
            if reward != TFuelWei::ZERO && found.is_none() {
                let gain = balance(&reader, height, staker.address()).checked_sub(balance(
                    &reader,
                    height - 1,
                    staker.address(),
                ));
                *found = Some((height, reward, gain));
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    // One guardian with all of the guardians' stake makes checkpoints final, which every node learns.
    let status = client.call(&rpc::GetStatus::default()).await.unwrap();
    let last = status.latest_final_block_height.expect("a checkpoint is final").0;
    assert!(devnet.spec().rules(last).is_checkpoint(last));
    assert!(last <= status.latest_finalized_block_height.0);
    for found in found {
        let (height, reward, gain) = found.expect("a reward within 100 blocks");
        assert!(devnet.spec().rules(height).is_checkpoint(height));
        let header = reader.block(At::Height(height)).unwrap().unwrap().block.header.clone();
        let guardians = header.extension.guardian_votes().expect("guardians' votes are what is paid");
        assert_eq!(guardians.multipliers, [1], "the one guardian signed");
        assert_eq!(
            reader.block(At::Block(guardians.block)).unwrap().unwrap().block.header.height,
            height - 10
        );
        if let Some(votes) = header.extension.elite_votes() {
            assert_eq!(votes.addresses, [elite.handle().address]);
        }
        assert_eq!(gain, Some(reward), "what the block pays is what the account has more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_with_a_stake_and_its_key_proposes_and_votes() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = devnet(folder.path(), ChainSpec::devnet()).await;
    let node = newcomer(&devnet, &folder.path().join("validator"), 0x53, |_| {}).await;
    let client = Client::http(devnet.nodes[0].theta_url()).unwrap();
    let reader = devnet.nodes[0].node.handle().reader;
    let wallet = Wallet::new("privatenet", devnet.accounts[0].key.clone());
    let (summary, me) = (node.handle().summary, node.handle().address);
    let stake = Coins::theta(ThetaWei::whole(10_000_000));
    let deposit = wallet.deposit_behind(1, &summary, Purpose::VALIDATOR, stake, minimum_fee());
    let sent = client.broadcast(&deposit.sign(wallet.signer()).unwrap()).await.unwrap();
    assert!(sent.block.is_some());
    let (mut proposed, mut voted) = (false, false);
    for height in 1..300 {
        for _ in 0..200 {
            if reader.settled().header.height >= height {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let ask = rpc::GetBlockByHeight { height: rpc::Text(height), ..Default::default() };
        let block = client.call(&ask).await.unwrap();
        proposed |= block["proposer"].as_str().map(str::parse) == Some(Ok(me));
        // Explorers read voters as ever.
        let votes = block["hcc"]["Votes"].as_array().cloned().unwrap_or_default();
        voted |= votes.iter().any(|vote| vote["ID"].as_str().unwrap().parse() == Ok(me));
        if proposed && voted {
            break;
        }
    }
    assert!(proposed && voted, "proposed: {proposed}, voted: {voted}");
}
