//! A chain in memory with the ledger's own rules for reserve funds and service payments.

use std::sync::Arc;

use theta_core::amount::{Coins, TFuelWei, ThetaWei};
use theta_core::block::Header;
use theta_core::context::BlockContext;
use theta_core::hash::{Address, EMPTY_ROOT, Hash};
use theta_core::sign::SecretKey;
use theta_core::spec::ChainSpec;
use theta_core::trie::NoNodes;
use theta_edge::chain::Fund;
use theta_ledger::state::StateView;
use theta_ledger::state::account::{Split, SplitRule};
use theta_ledger::tx::{
    RawTx, ReserveFund, Scope, ServicePayment, SetSplitRule, Signatures, Transaction, TxError, TxInput,
    Unsigned,
};
use theta_ledger::vm::NoContracts;

pub(crate) const CHAIN: &str = "privatenet";
pub(crate) const RESOURCE: &str = "edge1/any";

/// The fee of a settlement: 0.3 TFUEL.
pub(crate) fn fee() -> TFuelWei {
    TFuelWei::wei(300_000_000_000_000_000_u64)
}

pub(crate) struct MemChain {
    view: StateView,
    spec: ChainSpec,
    signatures: Signatures,
    pub(crate) height: u64,
}

impl MemChain {
    pub(crate) fn new() -> Self {
        let view = StateView::open(EMPTY_ROOT, 100, Arc::new(NoNodes)).unwrap();
        Self { view, spec: ChainSpec::privatenet(), signatures: Signatures::default(), height: 100 }
    }

    /// With the rules of a development network: overspending is punished.
    pub(crate) fn devnet() -> Self {
        Self { spec: ChainSpec::devnet(), ..Self::new() }
    }

    /// Sets the split rule of a resource.
    pub(crate) fn split(&mut self, owner: &SecretKey, resource: &str, splits: Vec<Split>) {
        let sequence = self.view.load_or_new(owner.address()).unwrap().sequence + 1;
        let rule = SetSplitRule {
            fee: Coins::tfuel(fee()).into(),
            resource_id: resource.into(),
            initiator: TxInput::new(owner.address(), Coins::ZERO, sequence),
            splits,
            duration: 10_000,
        };
        let raw: RawTx = Unsigned::new(CHAIN, rule).sign(owner).unwrap();
        self.submit(&raw.bytes).unwrap();
    }

    pub(crate) fn rule(&mut self, resource: &str) -> Option<SplitRule> {
        self.view.split_rule(resource.as_bytes()).unwrap()
    }

    /// Payments of a fund that were carried out, with their signatures.
    pub(crate) fn settled(&mut self, payer: Address, sequence: u64) -> Vec<ServicePayment> {
        let account = self.view.load(payer).unwrap().unwrap();
        let fund = account.reserved_funds.iter().find(|fund| fund.reserve_sequence == sequence).unwrap();
        fund.transfers.iter().map(|record| record.payment.clone()).collect()
    }

    pub(crate) fn give(&mut self, address: Address, tfuel: u64) {
        let mut account = self.view.load_or_new(address).unwrap();
        account.balance = Coins { theta: ThetaWei::ZERO, tfuel: TFuelWei::whole(tfuel) };
        self.view.store(account);
    }

    pub(crate) fn balance(&mut self, address: Address) -> TFuelWei {
        self.view.load_or_new(address).unwrap().balance.tfuel
    }

    pub(crate) fn submit(&mut self, raw: &[u8]) -> Result<(), TxError> {
        let (transaction, _) = Transaction::decode(raw).unwrap();
        let mut parent = Header::zero();
        parent.chain = CHAIN.into();
        parent.height = self.height;
        let block = BlockContext::on(Hash::ZERO, Arc::new(parent), Arc::default());
        let rules = self.spec.rules(self.height + 1);
        let (spec, signatures) = (&self.spec, &self.signatures);
        let scope = Scope { spec, rules, block: &block, vm: &NoContracts, signatures };
        let checkpoint = self.view.checkpoint();
        let done = transaction
            .check(&scope, &mut self.view)
            .and_then(|()| transaction.apply(&scope, &mut self.view));
        match done {
            Ok(_) => {
                self.height += 1;
                Ok(())
            }
            Err(error) => {
                self.view.revert(checkpoint);
                Err(error)
            }
        }
    }

    /// Opens a fund of so many TFUEL and gives its sequence.
    pub(crate) fn reserve(&mut self, payer: &SecretKey, tfuel: u64) -> u64 {
        let sequence = self.view.load_or_new(payer.address()).unwrap().sequence + 1;
        let fund = ReserveFund {
            fee: Coins::tfuel(fee()).into(),
            source: TxInput::new(payer.address(), Coins::tfuel(TFuelWei::whole(tfuel)), sequence),
            collateral: Coins::tfuel(TFuelWei::whole(tfuel + 1)).into(),
            resource_ids: vec![RESOURCE.into()],
            duration: 1000,
        };
        let raw: RawTx = Unsigned::new(CHAIN, fund).sign(payer).unwrap();
        self.submit(&raw.bytes).unwrap();
        sequence
    }

    pub(crate) fn fund(&mut self, payer: Address, sequence: u64) -> Option<Fund> {
        Fund::of(&self.view.load(payer).unwrap()?, sequence)
    }
}
