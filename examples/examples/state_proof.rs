//! A state proof: one side has the store, the other side has a state root it trusts and nothing else.
//!
//! `cargo run -p theta-examples --example state_proof`

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    codec::rlp::Decode,
    hash::{Address, Hash},
    spec::ChainSpec,
    stake::ValidatorPool,
    trie,
};
use theta_ledger::{
    genesis::GenesisBuilder,
    ledger::{At, Ledger},
    state::{Account, keys},
};

fn main() -> anyhow::Result<()> {
    // The side with the store: any node.
    let (alice, validator) = (Address::repeat_byte(0xa1), Address::repeat_byte(0x11));
    let spec = ChainSpec::privatenet();
    let genesis = GenesisBuilder::new(&spec, 1_700_000_000)
        .account(alice, Coins { theta: ThetaWei::whole(100), tfuel: TFuelWei::whole(7) })
        .account(Address::repeat_byte(0xb0), Coins::theta(ThetaWei::whole(1)))
        .validator(validator, validator, ThetaWei::whole(5_000_000))
        .build();
    let reader = Ledger::builder(spec).open(&genesis)?.reader();
    let keys = [keys::account(alice), keys::VALIDATORS.to_vec(), keys::account(Address::repeat_byte(0xff))];
    let proofs = reader.prove(At::Settled, &keys)?;

    // The other side: a root out of a header it has checked, keys, and what it was sent.
    let root: Hash = genesis.header.state_root;
    let proven = |at: usize| trie::verify(&root, &keys[at], &proofs[at]);

    let bytes = proven(0)?.ok_or_else(|| anyhow::anyhow!("the account is there"))?;
    let account = Account::from_rlp(&bytes, bytes.len())?;
    println!("alice has {} ThetaWei and {} TFuelWei", account.balance.theta, account.balance.tfuel);
    anyhow::ensure!(account.balance.tfuel == TFuelWei::whole(7));

    let bytes = proven(1)?.ok_or_else(|| anyhow::anyhow!("the validators are there"))?;
    let pool = ValidatorPool::from_rlp(&bytes, bytes.len())?;
    println!("{} validator candidate(s), the first with {} ThetaWei", pool.candidates.len(), {
        pool.candidates[0].total()
    });

    anyhow::ensure!(proven(2)?.is_none());
    println!("and the third account is proven not to exist");

    // A proof with one bit changed proves nothing.
    let mut forged = proofs[0].clone();
    forged[0][10] ^= 1;
    let refused = trie::verify(&root, &keys[0], &forged).expect_err("another node has another hash");
    println!("forged: {refused}");
    Ok(())
}
