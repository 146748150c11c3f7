//! A contract on a ledger in memory, and the trace of a call: `cargo run -p theta-examples --example run_contract`

use std::sync::Arc;

use theta_core::{amount::Coins, amount::ThetaWei, hash::Address, spec::ChainSpec};
use theta_evm::trace::{Trace, TraceLimits};
use theta_evm::{Evm, contracts::WRAPPED_THETA};
use theta_ledger::ledger::{At, Ledger};
use theta_ledger::vm::{VmCall, VmEnv};
use theta_ledger::{genesis::GenesisBuilder, ledger::LedgerReader};

const ALICE: Address = Address::repeat_byte(0xa1);
const VALIDATOR: Address = Address::repeat_byte(0xb1);

fn ledger(spec: &ChainSpec) -> anyhow::Result<LedgerReader> {
    let genesis = GenesisBuilder::new(spec, 1_700_000_000)
        .account(ALICE, Coins::theta(ThetaWei::whole(5)))
        .contract(WRAPPED_THETA.address, WRAPPED_THETA.code())
        .validator(VALIDATOR, VALIDATOR, ThetaWei::whole(200_000));
    Ok(Ledger::builder(spec.clone()).contracts(Arc::new(Evm)).open(&genesis.build())?.reader())
}

fn main() -> anyhow::Result<()> {
    let spec = ChainSpec::devnet();
    let (mut view, block) = ledger(&spec)?.next_block(At::Settled)?;
    // `deposit()` with one THETA: the contract asks precompile 201 what it holds, makes tokens of it, and logs.
    let call = VmCall {
        from: ALICE,
        to: Some(WRAPPED_THETA.address),
        theta: ThetaWei::whole(1).get(),
        gas_limit: 200_000,
        data: vec![0xd0, 0xe3, 0x0d, 0xb0],
        ..VmCall::default()
    };
    // Contracts begin at height 2.
    let env = VmEnv { rules: spec.rules(2), ..VmEnv::new(&spec, &block) };
    let (_, traced) =
        Evm.trace(&env, &call, &mut view, Trace::Calls { logs: true }, TraceLimits::default())?;
    println!("{}", serde_json::to_string_pretty(&traced)?);
    Ok(())
}
