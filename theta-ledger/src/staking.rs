//! Loads stake pools, applies core's rules to them, stores them. Balances are the caller's to move, but for what a
//! block's end returns.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    bls::PublicKey,
    codec::rlp::{Decode, Encode},
    hash::{Address, Hash, keccak},
    spec::{HeaderRules, Rules},
    stake::{
        EliteEdgeNode, EliteState, Pools, Stake, StakeError, ValidatorKey, ValidatorPool, ValidatorSet,
        elite::StakeReturn,
    },
};

use crate::{
    state::{StateError, StateView, keys},
    tx::{HolderSummary, Purpose, TxError},
};

/// Puts a stake into the pool of a purpose. `summary` introduces a guardian or elite edge node that is new, and gives a
/// validator its key where validators have keys.
pub fn deposit(
    view: &mut StateView,
    purpose: Purpose,
    source: Address,
    holder: Address,
    stake: Coins,
    summary: Option<&HolderSummary>,
) -> Result<(), TxError> {
    match purpose {
        Purpose::VALIDATOR => {
            let mut pool = view.validators()?.unwrap_or_default();
            if let Some(summary) = summary {
                set_validator_key(view, summary, pool.find(holder).is_some())?;
            }
            Arc::make_mut(&mut pool).deposit(source, holder, stake.theta)?;
            view.set_validators(pool);
        }
        Purpose::GUARDIAN => {
            let mut pool = view.guardians()?;
            let key = if pool.contains(holder) { None } else { Some(checked(summary)?.key) };
            Arc::make_mut(&mut pool).deposit(source, holder, stake.theta, key)?;
            view.set_guardians(pool);
        }
        Purpose::ELITE_EDGE => {
            let mut node = match view.elite(holder)? {
                Some(node) => node,
                None => EliteEdgeNode::new(holder, checked(summary)?.key),
            };
            node.deposit(source, stake.tfuel)?;
            view.set_elite(holder, Some(&node));
            let total = view.elite_total()?.checked_add(stake.tfuel).ok_or(TxError::Overflow)?;
            view.set_elite_total(total);
        }
        _ => return Err(TxError::Purpose),
    }
    Ok(())
}

/// A validator keeps its key for as long as it has any stake, so that no old introduction brings back an old key.
fn set_validator_key(view: &mut StateView, summary: &HolderSummary, is_staked: bool) -> Result<(), TxError> {
    let at = keys::validator_key(summary.holder);
    let known = view.record(&at)?.map(|bytes| read_key(&at, &bytes)).transpose()?;
    if let Some(known) = known.filter(|_| is_staked) {
        let same = known.key == summary.key;
        return if same { Ok(()) } else { Err(TxError::BlsKey("the validator has another key already")) };
    }
    summary.check()?;
    check_subgroup(&summary.key)?;
    let key = ValidatorKey { key: summary.key, proof: summary.proof };
    view.set_record(at, Some(key.to_rlp()));
    Ok(())
}

/// The reference's form of a proof says nothing of points outside the subgroup, and validators sign by the standard.
#[cfg(feature = "bls")]
fn check_subgroup(key: &PublicKey) -> Result<(), TxError> {
    PublicKey::parse(key.as_bytes(), theta_core::bls::Suite::Rfc9380)
        .map(drop)
        .map_err(|_| TxError::BlsKey("the key is no point of the group that validators sign in"))
}

#[cfg(not(feature = "bls"))]
fn check_subgroup(_: &PublicKey) -> Result<(), TxError> {
    Err(TxError::BlsKey("this program was built without BLS"))
}

fn read_key(at: &[u8], bytes: &[u8]) -> Result<ValidatorKey, StateError> {
    ValidatorKey::from_rlp(bytes, bytes.len())
        .map_err(|source| StateError::Damaged { key: String::from_utf8_lossy(at).into_owned(), source })
}

/// The validators that a state gives: its first candidates with stake, those alone that have keys where the rules want them.
pub fn validators(view: &mut StateView, rules: &Rules) -> Result<Arc<ValidatorSet>, StateError> {
    let pool = view.validators()?.unwrap_or_default();
    validators_of(view, &pool, rules.stake.validator_keys).map(Arc::new)
}

/// Those that this pool would give.
pub(crate) fn validators_of(
    view: &mut StateView,
    pool: &ValidatorPool,
    keyed: bool,
) -> Result<ValidatorSet, StateError> {
    if !keyed {
        return Ok(ValidatorSet::of_pool(pool));
    }
    ValidatorSet::keyed(pool, |holder| {
        let at = keys::validator_key(holder);
        let key = view.record(&at)?.map(|bytes| read_key(&at, &bytes)).transpose()?;
        Ok(key.map(|key| key.key))
    })
}

fn checked(summary: Option<&HolderSummary>) -> Result<&HolderSummary, TxError> {
    let summary =
        summary.ok_or(TxError::BlsKey("key, proof of possession and holder signature are needed"))?;
    summary.check()?;
    Ok(summary)
}

/// Begins the return of a whole stake.
pub fn withdraw(
    view: &mut StateView,
    rules: &Rules,
    parent_height: u64,
    purpose: Purpose,
    source: Address,
    holder: Address,
) -> Result<(), TxError> {
    let lock = rules.stake.lock_blocks;
    match purpose {
        Purpose::VALIDATOR => {
            let mut pool = view.validators()?.unwrap_or_default();
            Arc::make_mut(&mut pool).withdraw(source, holder, parent_height, lock)?;
            view.set_validators(pool);
        }
        Purpose::GUARDIAN => {
            let mut pool = view.guardians()?;
            Arc::make_mut(&mut pool).withdraw(source, holder, parent_height, lock)?;
            view.set_guardians(pool);
        }
        Purpose::ELITE_EDGE => {
            let mut node = view.elite(holder)?.ok_or(StakeError::NoHolder(holder))?;
            let stake = node.stakes.withdraw(source, parent_height, lock)?.clone();
            view.set_elite(holder, Some(&node));
            let total = view.elite_total()?.saturating_sub(stake.amount);
            view.set_elite_total(total);
            let key = keys::elite_returns(stake.return_height);
            let mut returns = returns_at(view, &key)?;
            returns.push(StakeReturn { holder, stake });
            view.set_record(key, Some(returns.to_rlp()));
        }
        _ => return Err(TxError::Purpose),
    }
    Ok(())
}

fn returns_at(view: &mut StateView, key: &[u8]) -> Result<Vec<StakeReturn>, StateError> {
    let Some(bytes) = view.record(key)? else { return Ok(Vec::new()) };
    Vec::from_rlp(&bytes, bytes.len())
        .map_err(|source| StateError::Damaged { key: String::from_utf8_lossy(key).into_owned(), source })
}

/// Who may vote for the block of this state on the upper levels: nobody unless it is a checkpoint.
pub fn pools(view: &mut StateView, rules: &Rules, height: u64) -> Result<Option<Arc<Pools>>, StateError> {
    if rules.header == HeaderRules::Twelve || !rules.is_checkpoint(height) {
        return Ok(None);
    }
    let mut elite = EliteState { total: view.elite_total()?, ..EliteState::default() };
    for (key, value) in view.records_with(keys::ELITE)? {
        let node = EliteEdgeNode::from_rlp(&value, value.len()).map_err(|source| StateError::Damaged {
            key: String::from_utf8_lossy(&key).into_owned(),
            source,
        })?;
        elite.nodes.insert(node.stakes.holder, node);
    }
    Ok(Some(Arc::new(Pools { guardians: Arc::unwrap_or_clone(view.guardians()?), elite })))
}

/// What the end of every block does: returns stakes that are due (`ledger.md` 7.4).
pub fn end_of_block(view: &mut StateView, rules: &Rules) -> Result<(), TxError> {
    let parent_height = view.height();
    // The pool is sorted and written again even if nothing is due; a stored order that was not sorted changes here.
    if let Some(mut pool) = view.validators()? {
        let due = Arc::make_mut(&mut pool).take_due(parent_height);
        view.set_validators(pool);
        return_theta(view, due)?;
    }
    let mut guardians = view.guardians()?;
    if !guardians.guardians.is_empty() {
        let due = Arc::make_mut(&mut guardians).take_due(parent_height);
        view.set_guardians(guardians);
        return_theta(view, due)?;
    }
    if rules.stake.elite_edge {
        return_elite(view, parent_height)?;
    }
    Ok(())
}

fn return_theta(view: &mut StateView, due: Vec<Stake<ThetaWei>>) -> Result<(), TxError> {
    due.into_iter().try_for_each(|stake| give_back(view, stake.source, Coins::theta(stake.amount)))
}

fn return_elite(view: &mut StateView, parent_height: u64) -> Result<(), TxError> {
    let key = keys::elite_returns(parent_height);
    let returns = returns_at(view, &key)?;
    if returns.is_empty() {
        return Ok(());
    }
    for StakeReturn { holder, stake } in returns {
        give_back(view, stake.source, Coins::tfuel(stake.amount))?;
        if let Some(mut node) = view.elite(holder)? {
            node.take_returned(stake.source, parent_height)?;
            let left = Some(&node).filter(|node| !node.stakes.stakes.is_empty());
            view.set_elite(holder, left);
        }
    }
    view.set_record(key, None);
    Ok(())
}

/// The plain record: expired funds of the account are not released here.
fn give_back(view: &mut StateView, source: Address, coins: Coins) -> Result<(), TxError> {
    let mut account = view.account(source)?.cloned().ok_or(TxError::NoAccount(source))?;
    account.balance = account.balance.checked_add(coins).ok_or(TxError::Overflow)?;
    view.store(account);
    Ok(())
}

impl HolderSummary {
    /// Introduces a node that has both keys.
    #[cfg(feature = "bls")]
    pub fn new(node: &theta_core::sign::SecretKey, key: &theta_core::bls::SecretKey) -> Self {
        let proof = key.proof_of_possession(theta_core::bls::Suite::Theta2020);
        let signature = node.sign_digest(&keccak(proof.as_bytes()));
        Self { holder: node.address(), key: key.public_key(), proof, signature }
    }

    /// The 229 bytes that wallets pass around.
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts: [&[u8]; 4] =
            [self.holder.as_slice(), self.key.as_bytes(), self.proof.as_bytes(), self.signature.as_bytes()];
        parts.concat()
    }

    /// Whether the holder signed the proof and the proof is of the key. The proof's canonical bytes are what is signed.
    pub fn check(&self) -> Result<(), TxError> {
        let digest: Hash = keccak(self.proof.as_bytes());
        if self.signature.recover(&digest) != Ok(self.holder) {
            return Err(TxError::BlsKey("the holder did not sign the proof of possession"));
        }
        self.check_possession()
    }

    #[cfg(feature = "bls")]
    fn check_possession(&self) -> Result<(), TxError> {
        use theta_core::bls::{Suite, verify_possession};
        verify_possession(Suite::Theta2020, &self.key, &self.proof)
            .map_err(|_| TxError::BlsKey("the proof of possession is not of this key"))
    }

    #[cfg(not(feature = "bls"))]
    fn check_possession(&self) -> Result<(), TxError> {
        Err(TxError::BlsKey("this program was built without BLS"))
    }
}

/// Least deposit of a purpose.
pub(crate) fn check_amount(
    view: &mut StateView,
    rules: &Rules,
    purpose: Purpose,
    holder: Address,
    stake: Coins,
) -> Result<(), TxError> {
    use theta_core::stake::elite::{MAX_STAKE, MIN_DEPOSIT};
    let too_little = |minimum: u64, token: &str| {
        TxError::InsufficientStake(format!("at least {minimum} {token} are needed"))
    };
    match purpose {
        Purpose::VALIDATOR if stake.theta < ThetaWei::whole(rules.stake.min_validator) => {
            Err(too_little(rules.stake.min_validator, "Theta"))
        }
        Purpose::GUARDIAN if stake.theta < ThetaWei::whole(rules.stake.min_guardian) => {
            Err(too_little(rules.stake.min_guardian, "Theta"))
        }
        Purpose::ELITE_EDGE if !rules.stake.elite_edge => Err(TxError::UnsupportedKind),
        Purpose::ELITE_EDGE if stake.tfuel < TFuelWei::whole(MIN_DEPOSIT) => {
            Err(too_little(MIN_DEPOSIT, "TFuel"))
        }
        Purpose::ELITE_EDGE => {
            let there = view.elite(holder)?.map_or(TFuelWei::ZERO, |node| node.stakes.total());
            match there.checked_add(stake.tfuel) {
                Some(total) if total <= TFuelWei::whole(MAX_STAKE) => Ok(()),
                _ => Err(TxError::StakeCap),
            }
        }
        _ => Ok(()),
    }
}

/// Reads the 229 bytes that wallets pass around: holder, BLS key, proof of possession, holder's signature.
#[cfg(feature = "bls")]
pub fn parse_summary(bytes: &[u8]) -> Result<HolderSummary, TxError> {
    use theta_core::bls::{Signature as BlsSignature, Suite};
    let whole: &[u8; 229] =
        bytes.try_into().map_err(|_| TxError::BlsKey("a holder summary has 229 bytes"))?;
    let point = |_| TxError::BlsKey("key or proof is no point of the curve");
    Ok(HolderSummary {
        holder: Address::from_slice(&whole[..20]),
        key: PublicKey::parse(&whole[20..68], Suite::Theta2020).map_err(point)?,
        proof: BlsSignature::parse(&whole[68..164], Suite::Theta2020).map_err(point)?,
        signature: theta_core::sign::Signature::from_bytes(whole[164..].to_vec()),
    })
}
