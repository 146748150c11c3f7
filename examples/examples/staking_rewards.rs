//! What the stakers of a checkpoint are paid, from the pools alone: no ledger, no state.
//!
//! `cargo run -p theta-examples --example staking_rewards`

use theta_core::{
    amount::{TFuelWei, ThetaWei},
    bls::{PublicKey, Signature},
    hash::{Address, Hash},
    spec::ChainSpec,
    stake::{
        GuardianPool, ValidatorPool, ValidatorSet,
        reward::{RewardInput, rewards},
    },
    vote::GuardianVotes,
};

fn main() -> anyhow::Result<()> {
    let who = |byte| Address::repeat_byte(byte);
    let mut validators = ValidatorPool::default();
    validators.deposit(who(0x51), who(0xa1), ThetaWei::whole(5_000_000))?;
    validators.deposit(who(0x52), who(0xa2), ThetaWei::whole(3_000_000))?;
    let mut guardians = GuardianPool::default();
    // Keys are looked at when votes are checked; who is paid how much does not depend on them.
    let key = || Some(PublicKey::from_checked_bytes([0; 48]));
    guardians.deposit(who(0x53), who(0xb1), ThetaWei::whole(100_000), key())?;
    guardians.deposit(who(0x54), who(0xb2), ThetaWei::whole(1_900_000), key())?;

    let spec = ChainSpec::mainnet();
    for (height, votes) in
        [(5_000_001, None), (8_000_001, Some([1, 1])), (20_000_001, Some([1, 1])), (20_000_101, Some([1, 0]))]
    {
        let rules = spec.rules(height);
        let votes = votes.map(|multipliers| GuardianVotes {
            block: Hash::repeat_byte(7),
            pool: guardians.hash(),
            multipliers: multipliers.to_vec(),
            signature: Signature::from_checked_bytes([0; 96]),
        });
        let paid = rewards(&RewardInput {
            rule: rules.stake.reward,
            height,
            checkpoint: rules.is_checkpoint(height),
            validators: &ValidatorSet::of_pool(&validators),
            pool: &validators,
            guardians: votes.as_ref().map(|votes| (votes, &guardians)),
            elite: None,
            distribution: &|_| None,
        })?;
        println!("height {height}, rule {:?}", rules.stake.reward);
        for (source, amount) in &paid {
            println!("  {source:?}  {amount} TFuelWei");
        }
        let sum = paid.values().try_fold(TFuelWei::ZERO, |sum, amount| sum.checked_add(*amount));
        anyhow::ensure!(
            sum.is_some_and(|sum| sum <= TFuelWei::whole(4_800)),
            "48 TFUEL a block for 100 blocks"
        );
    }
    Ok(())
}
