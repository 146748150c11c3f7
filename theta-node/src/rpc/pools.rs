//! `theta.*` of stake pools, and what a state says of stakes on their way back.

use serde_json::{Value, json};
use theta_core::{
    amount::Wei,
    codec::rlp::Decode,
    hash::Address,
    stake::{EliteEdgeNode, Stake, StakeHolder, elite::StakeReturn, reward::RewardDistribution},
};
use theta_ledger::{
    ledger::{At, BlockInfo, LedgerReader},
    state::{StateError, StateView, keys},
};
use theta_sdk::rpc::{self, Text};

use super::RpcError;

/// The settled block at a height and the state after it.
fn at(reader: &LedgerReader, height: Text) -> Result<Option<(BlockInfo, StateView)>, RpcError> {
    let at = At::Height(height.0);
    let Some(info) = reader.block(at)? else { return Ok(None) };
    Ok(Some((info, reader.state(at)?)))
}

fn stake<W: Wei + serde::Serialize>(stake: &Stake<W>) -> Value {
    json!({
        "source": stake.source,
        "amount": stake.amount,
        "withdrawn": stake.withdrawn,
        "return_height": stake.return_height.to_string(),
    })
}

fn holder<W: Wei + serde::Serialize>(holder: &StakeHolder<W>) -> Value {
    let stakes: Vec<Value> = holder.stakes.iter().map(stake).collect();
    json!({ "Holder": holder.holder, "Stakes": stakes })
}

fn decode<T: Decode>(key: &[u8], bytes: &[u8]) -> Result<T, StateError> {
    T::from_rlp(bytes, bytes.len())
        .map_err(|source| StateError::Damaged { key: String::from_utf8_lossy(key).into_owned(), source })
}

fn records<T: Decode>(state: &StateView, prefix: &[u8]) -> Result<Vec<(Vec<u8>, T)>, RpcError> {
    let mut found = Vec::new();
    for (key, value) in state.records_with(prefix)? {
        let record = decode(&key, &value)?;
        found.push((key, record));
    }
    Ok(found)
}

pub(super) fn validators(reader: &LedgerReader, method: &rpc::GetVcpByHeight) -> Result<Value, RpcError> {
    let Some((info, mut state)) = at(reader, method.height)? else {
        return Ok(json!({ "BlockHashVcpPairs": [] }));
    };
    let pool = state.validators()?.unwrap_or_default();
    let candidates: Vec<Value> = pool.candidates.iter().map(holder).collect();
    let heights = state.record(keys::STAKE_HEIGHTS)?.unwrap_or_default();
    let heights = theta_ledger::state::account::HeightList::from_rlp(&heights, heights.len())
        .map(|list| list.0)
        .unwrap_or_default();
    Ok(json!({ "BlockHashVcpPairs": [{
        "BlockHash": info.hash,
        "Vcp": { "SortedCandidates": candidates },
        "HeightList": { "Heights": heights },
    }] }))
}

pub(super) fn guardians(reader: &LedgerReader, method: &rpc::GetGcpByHeight) -> Result<Value, RpcError> {
    let Some((info, mut state)) = at(reader, method.height)? else {
        return Ok(json!({ "BlockHashGcpPairs": [] }));
    };
    let pool = state.guardians()?;
    let guardians: Vec<Value> = pool.guardians.iter().map(|guardian| holder(&guardian.stakes)).collect();
    Ok(json!({ "BlockHashGcpPairs": [{
        "BlockHash": info.hash,
        "Gcp": { "SortedGuardians": guardians },
    }] }))
}

pub(super) fn elite(reader: &LedgerReader, method: &rpc::GetEenpByHeight) -> Result<Value, RpcError> {
    let Some((info, state)) = at(reader, method.height)? else {
        return Ok(json!({ "BlockHashEenpPairs": [] }));
    };
    let nodes = records::<EliteEdgeNode>(&state, keys::ELITE)?;
    let nodes: Vec<Value> = nodes.iter().map(|(_, node)| holder(&node.stakes)).collect();
    Ok(json!({ "BlockHashEenpPairs": [{ "BlockHash": info.hash, "EENs": nodes }] }))
}

pub(super) fn elite_stake(
    reader: &LedgerReader,
    method: &rpc::GetEenpStakeByHeight,
) -> Result<Value, RpcError> {
    let Some((_, mut state)) = at(reader, method.height)? else {
        return Err(RpcError::application(format!("Can't find block for height {}", method.height.0)));
    };
    let Some(node) = state.elite(method.holder)? else {
        let holder = method.holder.to_checksum(None);
        return Err(RpcError::application(format!("Can't find EENP stake for: {holder}")));
    };
    let wanted =
        |found: &&Stake<_>| found.source == method.source && (found.withdrawn || !method.withdrawn_only);
    match node.stakes.stakes.iter().find(wanted) {
        Some(found) => Ok(json!({ "stake": stake(found) })),
        None => {
            let source = method.source.to_checksum(None);
            Err(RpcError::application(format!("Cannot get stake for: {source}")))
        }
    }
}

fn rule(rule: &RewardDistribution) -> Value {
    json!({
        "StakeHolder": rule.holder,
        "Beneficiary": rule.beneficiary,
        "SplitBasisPoint": rule.split_basis_point,
    })
}

pub(super) fn distributions(
    reader: &LedgerReader,
    method: &rpc::GetStakeRewardDistributionByHeight,
    only: Option<Address>,
) -> Result<Value, RpcError> {
    const PAIRS: &str = "BlockHashStakeRewardDistributionRuleSetPairs";
    let Some((info, mut state)) = at(reader, method.height)? else { return Ok(json!({ PAIRS: [] })) };
    let rules: Vec<Value> = match only {
        Some(holder) => vec![state.distribution(holder)?.map_or(Value::Null, |found| rule(&found))],
        None => {
            let all = records::<RewardDistribution>(&state, keys::DISTRIBUTION)?;
            all.iter().map(|(_, found)| rule(found)).collect()
        }
    };
    Ok(json!({ PAIRS: [{ "BlockHash": info.hash, "StakeRewardDistributionRuleSet": rules }] }))
}

fn returned(items: &[StakeReturn]) -> Vec<Value> {
    items.iter().map(|item| json!({ "Holder": item.holder, "Stake": stake(&item.stake) })).collect()
}

pub(super) fn elite_returns(reader: &LedgerReader, height: Text) -> Result<Value, RpcError> {
    let mut state = reader.state(At::Tip)?;
    let key = keys::elite_returns(height.0);
    let items = match state.record(&key)? {
        None => Vec::new(),
        Some(bytes) => decode(&key, &bytes)?,
    };
    Ok(json!({ "EENStakeReturns": returned(&items) }))
}

pub(super) fn all_elite_returns(reader: &LedgerReader) -> Result<Value, RpcError> {
    let state = reader.state(At::Tip)?;
    let all = records::<Vec<StakeReturn>>(&state, keys::ELITE_RETURNS)?;
    let pairs: Vec<Value> = all
        .iter()
        .map(|(key, items)| {
            json!({ "HeightKey": String::from_utf8_lossy(key), "EENStakeReturns": returned(items) })
        })
        .collect();
    Ok(json!({ "EENHeightStakeReturnsPairs": pairs }))
}
