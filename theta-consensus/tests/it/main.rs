//! The crate as a host sees it, on data of a real chain of the reference.
#![allow(clippy::unwrap_used, missing_docs, reason = "a fixture that is not whole is a failed test")]

mod blocks;
mod light;
mod vectors;

use std::{io::Read, path::Path};

use theta_core::{
    block::Header,
    codec::rlp::{Decode, DecodeError, Reader},
    rlp_list,
    stake::{ValidatorPool, ValidatorSet},
    vote::VoteSet,
};

/// A file of the workspace's fixtures, unpacked if it is packed.
fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    let bytes = std::fs::read(path).unwrap();
    if !name.ends_with(".gz") {
        return bytes;
    }
    let mut whole = Vec::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut whole).unwrap();
    whole
}

/// Records of a genesis or snapshot file: a little-endian length each, then RLP.
fn records(file: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut records) = (file, Vec::new());
    while let Some((length, body)) = rest.split_first_chunk::<8>() {
        let (record, next) = body.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
        records.push(record);
        rest = next;
    }
    records
}

#[derive(Clone, Debug)]
struct ProofNode {
    hash: Vec<u8>,
    node: Vec<u8>,
}
rlp_list!(ProofNode { hash, node });

#[derive(Clone, Debug)]
struct Proven {
    header: Header,
    proof: Vec<ProofNode>,
}
rlp_list!(Proven { header, proof });

#[derive(Clone, Debug)]
struct Top {
    header: Header,
    votes: VoteSet,
}
rlp_list!(Top { header, votes });

/// Three headers in a row, the first with a proof of its validators (`spec/consensus.md` 12).
#[derive(Clone, Debug)]
struct Trio {
    first: Proven,
    second: Header,
    third: Top,
}

impl Trio {
    fn read(list: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut trio = list.list()?;
        let first = trio.read()?;
        let mut second = trio.list()?;
        Ok(Self { first, second: second.read()?, third: trio.read()? })
    }

    fn proof(&self) -> Vec<Vec<u8>> {
        self.first.proof.iter().map(|node| node.node.clone()).collect()
    }
}

/// The trios of the snapshot at height 450: genesis, one for each change of validators, and the one at the top.
fn trios() -> (Vec<Trio>, Trio) {
    let file = fixture("privatenet-450-v3.snapshot.gz");
    let mut metadata = Reader::new(records(&file)[2], 1 << 20).unwrap().list().unwrap();
    let mut list = metadata.list().unwrap();
    let mut changes = Vec::new();
    while !list.is_empty() {
        changes.push(Trio::read(&mut list).unwrap());
    }
    (changes, Trio::read(&mut metadata).unwrap())
}

/// A value of the genesis state.
fn genesis_value(key: &[u8]) -> Vec<u8> {
    let file = fixture("privatenet.genesis");
    let found = records(&file).into_iter().find_map(|record| {
        let mut entry = Reader::new(record, 1 << 24).unwrap().list().ok()?;
        (entry.string().ok()? == key).then(|| entry.string().unwrap().to_vec())
    });
    found.unwrap()
}

fn genesis_validators() -> ValidatorSet {
    ValidatorSet::of_pool(&ValidatorPool::from_rlp(&genesis_value(b"ls/vcp"), 1 << 20).unwrap())
}
