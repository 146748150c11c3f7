//! Recorded blocks of a real chain pass every rule, and each forgery of one field is named.

use std::sync::Arc;

use serde_json::Value;
use theta_consensus::{
    AggregateError, CertificateError, Checkpoint, Effect, Engine, Fault, Input, Peer, Roles, Settings,
    SettledBlock, Start,
    settled::{Below, judge},
};
use theta_core::{
    amount::TFuelWei,
    block::{Block, Extension, Header},
    bls::BlsError,
    codec::rlp::{Decode, Reader},
    context::{Finality, PostState},
    hash::{Address, Hash, U256},
    sign::Signature,
    spec::{ChainSpec, Pace},
    stake::{EliteEdgeNode, EliteState, GuardianPool, NEVER, Pools, ValidatorPool, ValidatorSet},
    trie,
    vote::VoteSet,
};

use crate::{fixture, genesis_validators, records, trios};

/// The recorded chain, with what a ledger would tell consensus of it.
struct Chain {
    genesis: Header,
    blocks: Vec<Block>,
    changes: Vec<bool>,
    /// Validators from these heights on, ascending.
    sets: Vec<(u64, Arc<ValidatorSet>)>,
    early: Arc<Pools>,
    late: Arc<Pools>,
}

impl Chain {
    fn read() -> Self {
        let all: Value = serde_json::from_slice(&fixture("blocks_privatenet.json.gz")).unwrap();
        let rows = all["blocks"].as_array().unwrap();
        let blocks: Vec<Block> = rows
            .iter()
            .map(|row| {
                let raw = hex::decode(row["block"].as_str().unwrap()).unwrap();
                Block::from_rlp(&raw, raw.len()).unwrap()
            })
            .collect();
        let (trios, _) = trios();
        let mut sets = vec![(0, Arc::new(genesis_validators()))];
        for trio in &trios[1..] {
            let header = &trio.first.header;
            let value = trie::verify(&header.state_root, b"ls/vcp", &trio.proof()).unwrap().unwrap();
            let set = ValidatorSet::of_pool(&ValidatorPool::from_rlp(&value, 1 << 20).unwrap());
            sets.push((header.height, Arc::new(set)));
        }
        // At 452, above the snapshot, the second validator's last stake is withdrawn.
        let withdrawn: Address = "0x384e22e38a024fa1b4327fb01a5bc649ac401531".parse().unwrap();
        let left = sets.last().unwrap().1.as_slice().iter().filter(|other| other.address != withdrawn);
        sets.push((452, Arc::new(ValidatorSet::new(left.cloned()))));
        let late = pools(&blocks[400].header.state_root);
        Self {
            genesis: trios[0].second.clone(),
            changes: rows.iter().map(|row| row["has_validator_update"].as_bool().unwrap()).collect(),
            blocks,
            sets,
            early: Arc::new(before_withdrawals(late.clone())),
            late: Arc::new(late),
        }
    }

    fn header(&self, height: u64) -> &Header {
        match usize::try_from(height).unwrap() {
            0 => &self.genesis,
            height => &self.blocks[height - 1].header,
        }
    }

    fn changes(&self, height: u64) -> bool {
        height > 0 && self.changes[usize::try_from(height).unwrap() - 1]
    }

    /// The set in the state after a height.
    fn set(&self, height: u64) -> &Arc<ValidatorSet> {
        &self.sets.iter().rev().find(|(from, _)| *from <= height).unwrap().1
    }

    fn pools(&self, height: u64) -> Option<&Arc<Pools>> {
        (height > 1 && height % 100 == 1).then_some(if height < 208 { &self.early } else { &self.late })
    }

    fn post(&self, height: u64) -> PostState {
        PostState {
            changes_validators: self.changes(height),
            pools: self.pools(height).cloned(),
            ..PostState::new(self.header(height).state_root, self.set(height).clone())
        }
    }

    fn judge(&self, height: u64, header: &Header) -> Result<(), Fault> {
        let voted = |block: Option<Hash>| {
            let height = (0..height).find(|other| Some(self.header(*other).hash()) == block)?;
            Some((height, self.pools(height)?))
        };
        let guardians = voted(header.extension.guardian_votes().map(|votes| votes.block));
        let elite = voted(header.extension.elite_votes().map(|votes| votes.block));
        let spec = ChainSpec::privatenet();
        let certified = (0..height).find(|other| self.header(*other).hash() == header.certificate.block);
        let below = Below {
            parent: self.header(height - 1),
            change_near: self.changes(height - 1) || height > 1 && self.changes(height - 2),
            proposers: self.set(height.saturating_sub(2)),
            certified: certified.map(|height| self.header(height)),
            voters: certified
                .filter(|height| *height > 0)
                .map(|height| &**self.set(height.saturating_sub(2))),
            spec: &spec,
            checkpoint: spec.rules(height).is_checkpoint(height),
            guardians: guardians.map(|(height, pools)| Checkpoint {
                chain: &spec.chain,
                height,
                rule: spec.rules(height).consensus.guardians,
                pool: &pools.guardians,
            }),
            elite: elite.map(|(_, pools)| &pools.elite),
        };
        judge(header, &below)
    }
}

/// The pools in the state at 401, whose nodes the snapshot holds.
fn pools(root: &Hash) -> Pools {
    let file = fixture("privatenet-450-v3.snapshot.gz");
    let nodes: Vec<Vec<u8>> = records(&file)[3..]
        .iter()
        .map(|record| {
            let mut entry = Reader::new(record, 1 << 24).unwrap().list().unwrap();
            entry.string().unwrap();
            entry.string().unwrap().to_vec()
        })
        .collect();
    let value = |key: &[u8]| trie::verify(root, key, &nodes).unwrap().unwrap();
    let total = TFuelWei::from_u256(U256::try_from_be_slice(&value(b"ls/eentas")).unwrap());
    let mut elite = EliteState { total, ..EliteState::default() };
    for holder in [
        "00bb921876f1219aca5c9c9436793bebca432599",
        "33534fc3d9ba327026cb42dcd4340b286dec5e45",
        "50fea1d5f4fe3828ca42935fbf7140c49ec38ff9",
    ] {
        let raw = value(&[b"ls/een/".as_slice(), &hex::decode(holder).unwrap()].concat());
        let node = EliteEdgeNode::from_rlp(&raw, 1 << 16).unwrap();
        elite.nodes.insert(node.stakes.holder, node);
    }
    Pools { guardians: GuardianPool::from_rlp(&value(b"ls/gcp"), 1 << 20).unwrap(), elite }
}

/// The same before block 208, which withdraws one stake of a guardian and one of an elite edge node.
fn before_withdrawals(mut pools: Pools) -> Pools {
    let due = 207 + 28_800;
    for guardian in &mut pools.guardians.guardians {
        for stake in guardian.stakes.stakes.iter_mut().filter(|stake| stake.return_height == due) {
            (stake.withdrawn, stake.return_height) = (false, NEVER);
        }
    }
    for node in pools.elite.nodes.values_mut() {
        for stake in node.stakes.stakes.iter_mut().filter(|stake| stake.return_height == due) {
            (stake.withdrawn, stake.return_height) = (false, NEVER);
            pools.elite.total = pools.elite.total.checked_add(stake.amount).unwrap();
        }
    }
    pools
}

#[test]
fn every_recorded_block_is_judged_right() {
    let chain = Chain::read();
    let mut upper = 0;
    for block in &chain.blocks {
        let height = block.header.height;
        assert_eq!(chain.judge(height, &block.header), Ok(()), "{height}");
        upper += u32::from(block.header.extension.guardian_votes().is_some());
        upper += u32::from(block.header.extension.elite_votes().is_some());
    }
    assert_eq!((chain.blocks.len(), upper), (470, 6));
}

#[test]
fn an_engine_settles_the_recorded_chain() {
    let chain = Chain::read();
    let genesis = SettledBlock { header: Arc::new(chain.genesis.clone()), post: chain.post(0) };
    let start = Start { root: chain.genesis.hash(), settled: vec![genesis], wal: Vec::new() };
    let spec = Arc::new(ChainSpec::privatenet());
    let settings = Settings::new(Pace::Clocked);
    let mut engine = Engine::recover(spec, settings, Roles::observer(), start).unwrap();
    let mut voted_states = 0;
    let (mut settled, mut effects) = (Vec::new(), Vec::new());
    for block in &chain.blocks {
        let (height, hash) = (block.header.height, block.header.hash());
        let now = 1_700_000_000_000 + height * 6_000;
        let checks = engine.wants_block(Peer::Remote(1), block.clone()).unwrap();
        engine.step(now, Input::Block(checks.verify().unwrap()), &mut effects);
        let executes =
            |effect: &Effect| matches!(effect, Effect::Execute { hash: other, .. } if *other == hash);
        assert!(effects.iter().any(executes), "{height}: {effects:?}");
        engine.step(now, Input::Executed { hash, post: Some(chain.post(height)) }, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Reached { finality: Finality::Settled, header, .. } => settled.push(header.height),
                Effect::Execute { context, .. } => voted_states += u32::from(context.voted_state.is_some()),
                Effect::Penalize { fault, .. } => panic!("{height}: {fault}"),
                _ => {}
            }
        }
    }
    assert_eq!(settled, (1..=468).collect::<Vec<_>>());
    assert_eq!(voted_states, 3);
}

#[test]
fn each_rule_names_what_breaks_it() {
    let chain = Chain::read();
    let forged = |height: u64, change: &dyn Fn(&mut Header)| {
        let mut header = chain.header(height).clone();
        change(&mut header);
        chain.judge(height, &header)
    };
    let mismatch = AggregateError::Signature(BlsError::Mismatch);
    for height in [2, 150, 201, 216, 301, 446] {
        assert_eq!(forged(height, &|header| header.height += 1), Err(Fault::Height));
        assert_eq!(forged(height, &|header| header.epoch -= 1), Err(Fault::Epoch));
        assert_eq!(forged(height, &|header| header.proposer.0[0] ^= 1), Err(Fault::Proposer));
        assert_eq!(forged(height, &|header| header.certificate.block.0[0] ^= 1), Err(Fault::Ancestor));
        let certificate = |error| Err(Fault::Certificate(error));
        let empty = |header: &mut Header| header.certificate.votes = VoteSet::default().into();
        assert_eq!(forged(height, &empty), certificate(CertificateError::Empty));
        let unsigned = |header: &mut Header| {
            let mut votes = header.certificate.votes.list().to_vec();
            votes[0].signature = Signature::from_bytes(vec![1; 65]);
            header.certificate.votes = VoteSet::new(votes).into();
        };
        assert_eq!(forged(height, &unsigned), certificate(CertificateError::Signature));
        let other = |header: &mut Header| {
            let mut votes = header.certificate.votes.list().to_vec();
            votes[0].block = Hash::ZERO;
            header.certificate.votes = VoteSet::new(votes).into();
        };
        assert_eq!(forged(height, &other), certificate(CertificateError::OtherBlock));
    }
    // Near a change of validators an older certificate is not enough.
    let certificate = chain.header(215).certificate.clone();
    let older = |header: &mut Header| header.certificate = certificate.clone();
    assert_eq!(forged(216, &older), Err(Fault::SetChange));
    // Votes of the upper levels.
    let votes = chain.header(201).extension.clone();
    let moved = |header: &mut Header| header.extension = votes.clone();
    assert_eq!(forged(202, &moved), Err(Fault::Guardians(AggregateError::Place)));
    for height in [201, 301, 401] {
        let guardians = |change: &dyn Fn(&mut theta_core::vote::GuardianVotes)| {
            forged(height, &|header| match &mut header.extension {
                Extension::GuardiansAndElite(Some(votes), _) => change(votes),
                _ => panic!("there are votes"),
            })
        };
        let error = |error| Err(Fault::Guardians(error));
        assert_eq!(guardians(&|votes| votes.block.0[0] ^= 1), error(AggregateError::Ancestor));
        assert_eq!(guardians(&|votes| votes.pool.0[0] ^= 1), error(AggregateError::Pool));
        assert_eq!(guardians(&|votes| votes.multipliers.push(0)), error(AggregateError::Length));
        assert_eq!(guardians(&|votes| votes.multipliers[0] += 1), error(mismatch));
        let elite = |change: &dyn Fn(&mut theta_core::vote::EliteVotes)| {
            forged(height, &|header| match &mut header.extension {
                Extension::GuardiansAndElite(_, Some(votes)) => change(votes),
                _ => panic!("there are votes"),
            })
        };
        let error = |error| Err(Fault::Elite(error));
        assert_eq!(elite(&|votes| votes.block.0[0] ^= 1), error(AggregateError::Ancestor));
        assert_eq!(elite(&|votes| votes.addresses.reverse()), error(AggregateError::Order));
        assert_eq!(elite(&|votes| votes.multipliers[0] += 1), error(mismatch));
        let last = |votes: &mut theta_core::vote::EliteVotes| {
            *votes.addresses.last_mut().unwrap() = Address::repeat_byte(0xff);
        };
        assert_eq!(elite(&last), error(AggregateError::Unsampled));
    }
}

#[test]
fn no_field_of_a_recorded_block_can_be_changed_unnoticed() {
    let chain = Chain::read();
    let below = SettledBlock { header: Arc::new(chain.header(200).clone()), post: chain.post(200) };
    let tail = (190..200).map(|height| SettledBlock {
        header: Arc::new(chain.header(height).clone()),
        post: chain.post(height),
    });
    let start = Start { root: chain.genesis.hash(), settled: tail.chain([below]).collect(), wal: Vec::new() };
    let spec = Arc::new(ChainSpec::privatenet());
    let engine = Engine::recover(spec, Settings::new(Pace::Clocked), Roles::observer(), start).unwrap();
    let fault = |change: &dyn Fn(&mut Block)| {
        let mut block = chain.blocks[200].clone();
        change(&mut block);
        engine.wants_block(Peer::Remote(1), block).and_then(|checks| checks.verify().err())
    };
    assert_eq!(fault(&|_| {}), None);
    let changes: [&dyn Fn(&mut Block); 9] = [
        &|block| block.header.height += 1,
        &|block| block.header.certificate.block = Hash::ZERO,
        &|block| block.header.transactions_root = Hash::ZERO,
        &|block| block.header.receipts_root = Hash::ZERO,
        &|block| block.header.bloom.0[0] ^= 1,
        &|block| block.header.state_root = Hash::ZERO,
        &|block| block.header.timestamp += 1_u8,
        &|block| block.header.signature = Signature::EMPTY,
        &|block| block.header.extension = Extension::GuardiansAndElite(None, None),
    ];
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(fault(change), Some(Fault::Signature), "change {index}");
    }
    assert_eq!(fault(&|block| block.header.chain.clear()), Some(Fault::Chain));
    assert_eq!(fault(&|block| block.header.extension = Extension::None), Some(Fault::Fields));
    assert_eq!(fault(&|block| block.transactions.clear()), Some(Fault::Transactions));
    assert_eq!(fault(&|block| block.transactions[0].push(0)), Some(Fault::Transactions));
    // Where the schedule is known a block of another proposer is not even looked at.
    let mut block = chain.blocks[200].clone();
    block.header.proposer.0[0] ^= 1;
    assert!(engine.wants_block(Peer::Remote(1), block).is_none());
}
