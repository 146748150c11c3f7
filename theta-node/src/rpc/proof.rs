//! `theta.*` for those who believe nothing: what follows from votes, and what from a state's root.

use serde_json::Value;
use theta_core::codec::rlp::{Decode, Encode};
use theta_ledger::{
    ledger::{At, LedgerReader},
    state::{account::HeightList, keys},
};
use theta_sdk::rpc::{self, Text};

use super::{
    RpcError,
    theta::{done, lenient_hex},
};

/// Updates of one answer.
const MAX_UPDATES: usize = 64;
/// Keys of one call, and bytes of each.
const MAX_KEYS: usize = 100;
const MAX_KEY: usize = 256;

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

pub(super) fn light_update(reader: &LedgerReader, method: &rpc::GetLightUpdate) -> Result<Value, RpcError> {
    let from = method.from.0;
    let newest = reader.settled().header.height;
    let changes = match reader.state(At::Settled)?.record(keys::STAKE_HEIGHTS)? {
        Some(bytes) => {
            let heights = HeightList::from_rlp(&bytes, bytes.len());
            heights.map_err(|error| RpcError::application(format!("a stored list is damaged: {error}")))?.0
        }
        None => Vec::new(),
    };
    let mut updates = Vec::new();
    for height in changes.iter().copied().filter(|height| *height > from).take(MAX_UPDATES) {
        updates.extend(update(reader, height, true)?);
    }
    if updates.len() < MAX_UPDATES {
        // The newest of which two more are settled; below it only where votes for the child were left out of the chain.
        for height in (from.saturating_add(1)..newest.saturating_sub(1)).rev().take(MAX_UPDATES) {
            if changes.contains(&height) {
                break;
            }
            if let Some(newest) = update(reader, height, false)? {
                updates.push(newest);
                break;
            }
        }
    }
    done(rpc::LightUpdates { updates })
}

/// A settled block with its child and the votes for that, if the chain has them.
fn update(
    reader: &LedgerReader,
    height: u64,
    validators: bool,
) -> Result<Option<rpc::LightUpdate>, RpcError> {
    let (Some(block), Some(child), Some(above)) = (
        reader.block(At::Height(height))?,
        reader.block(At::Height(height + 1))?,
        reader.block(At::Height(height + 2))?,
    ) else {
        return Ok(None);
    };
    let certificate = &above.block.header.certificate;
    if certificate.block != child.hash {
        return Ok(None);
    }
    let proof = match validators {
        true => {
            let nodes = reader.prove_validators(At::Height(height))?;
            Some(nodes.iter().map(|node| hex(node)).collect())
        }
        false => None,
    };
    Ok(Some(rpc::LightUpdate {
        height: Text(height),
        block: hex(&block.block.header.to_rlp()),
        child: hex(&child.block.header.to_rlp()),
        certificate: hex(&certificate.to_rlp()),
        validators: proof,
    }))
}

pub(super) fn proof(reader: &LedgerReader, method: &rpc::GetProof) -> Result<Value, RpcError> {
    if method.keys.len() > MAX_KEYS {
        return Err(RpcError::params(format!("a call has at most {MAX_KEYS} keys")));
    }
    let keys: Vec<Vec<u8>> =
        method.keys.iter().map(|key| lenient_hex("key", key)).collect::<Result<_, _>>()?;
    if keys.iter().any(|key| key.len() > MAX_KEY) {
        return Err(RpcError::params(format!("a key has at most {MAX_KEY} bytes")));
    }
    // One block for the whole answer, also if another is settled meanwhile.
    let height = match method.height.0 {
        0 => reader.settled().header.height,
        height => height,
    };
    let info = reader.block(At::Height(height))?;
    let info =
        info.ok_or_else(|| RpcError::application(format!("no block of height {height} is settled")))?;
    let proofs = reader.prove(At::Height(height), &keys)?;
    done(rpc::Proofs {
        block_hash: info.hash,
        height: Text(height),
        state_root: info.block.header.state_root,
        proofs: proofs.iter().map(|nodes| nodes.iter().map(|node| hex(node)).collect()).collect(),
    })
}
