//! What a validator of the reference met and did, minute by minute, met again.

use serde_json::Value;
use theta_core::{codec::rlp::Decode, spec::Fork};

use super::*;

fn header(text: &Value) -> Header {
    let raw = hex::decode(text.as_str().expect("text")).expect("hex");
    Header::from_rlp(&raw, raw.len()).expect("a header")
}

fn hash(text: &Value) -> Hash {
    text.as_str().expect("text").parse().expect("a hash")
}

/// A validator of two with equal stakes, on the root of the recorded net, whose timers are a third of the real ones.
struct Recorded {
    engine: Engine,
    now: Millis,
    entered: Millis,
    pending: Vec<Effect>,
    validators: Arc<ValidatorSet>,
}

impl Recorded {
    fn step(&mut self, input: Input) {
        let before = self.engine.epoch();
        self.engine.step(self.now, input, &mut self.pending);
        if self.engine.epoch() != before {
            self.entered = self.now;
        }
    }

    fn wait_until(&mut self, at: Millis) {
        self.now = at;
        self.step(Input::Tick);
    }

    fn take(&mut self, wanted: impl Fn(&Effect) -> bool) -> Option<Effect> {
        let index = self.pending.iter().position(wanted)?;
        Some(self.pending.remove(index))
    }

    fn take_vote(&mut self) -> Option<Vote> {
        match self.take(|effect| matches!(effect, Effect::Sign { intent: Intent::Vote { .. }, .. }))? {
            Effect::Sign { intent: Intent::Vote { vote, .. }, .. } => Some(vote),
            _ => None,
        }
    }
}

#[test]
fn the_engine_does_what_a_validator_of_the_reference_did() {
    let all: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/engine_trace.json")).expect("fixture");
    let root = Arc::new(header(&all["root"]));
    let members: Vec<Address> = all["validators"]
        .as_array()
        .expect("two")
        .iter()
        .map(|address| address.as_str().expect("text").parse().expect("an address"))
        .collect();
    let stake = ThetaWei::whole(1_000_000);
    let members_ = members.iter().map(|address| Validator::new(*address, stake));
    let validators = Arc::new(ValidatorSet::new(members_));
    let blocks: BTreeMap<Hash, Header> = all["headers"]
        .as_array()
        .expect("headers")
        .iter()
        .map(header)
        .map(|header| (header.hash(), header))
        .collect();
    let spec = Arc::new(ChainSpec::new("privatenet", Fork::MAINNET));
    let settings = Settings { vote_delay: 2_000, epoch_timeout: 4_000, ..Settings::new(Pace::Clocked) };
    let post = PostState::new(root.state_root, validators.clone());
    let settled = vec![SettledBlock { header: root.clone(), post }];
    let start = Start { root: root.hash(), settled, wal: Vec::new() };
    let engine = Engine::recover(spec, settings, Roles::validator(members[0]), start).expect("a chain");
    let mut node = Recorded { engine, now: NOW, entered: NOW, pending: Vec::new(), validators };
    node.step(Input::Tick);
    let (mut votes, mut settled, mut proposals) = (0, 0, 0);
    for (index, row) in all["rows"].as_array().expect("rows").iter().enumerate() {
        let at = format!("row {index}: {row}");
        let number = |place: usize| row[place].as_u64().expect("a number");
        match (row[0].as_str().expect("text"), row[1].as_str().expect("text")) {
            ("in", "epoch_timer") => {
                node.wait_until(node.entered + 4_000);
                node.entered = node.now;
            }
            ("in", "vote") => {
                let (from, voter) = match row[2].as_str().expect("text") {
                    "own" => (Peer::Own, members[0]),
                    other => (Peer::Remote(1), other.parse().expect("an address")),
                };
                let (block, epoch) = (hash(&row[3]), number(4));
                let height = blocks.get(&block).map_or(root.height, |header| header.height);
                let vote = Vote::unsigned(block, height, epoch, voter);
                let item = Message::Vote(vote);
                node.step(Input::Message(Checked { from, item, hash: Hash::ZERO, upper: true, below: true }));
            }
            ("in", "block") => {
                let header = blocks[&hash(&row[2])].clone();
                let root = header.state_root;
                let item = Block { header, transactions: Vec::new() };
                let hash = item.header.hash();
                node.step(Input::Block(Checked {
                    from: Peer::Remote(1),
                    item,
                    hash,
                    upper: true,
                    below: true,
                }));
                let executed = node.take(|effect| matches!(effect, Effect::Execute { .. }));
                assert!(executed.is_some(), "{at}: {:?}", node.pending);
                let post = PostState::new(root, node.validators.clone());
                node.step(Input::Executed { hash, post: Some(post) });
            }
            ("out", "enter_epoch") => assert_eq!(node.engine.epoch(), number(2), "{at}"),
            ("out", "proposal") => {
                let build = node.take(|effect| matches!(effect, Effect::Build(_)));
                let Some(Effect::Build(context)) = build else { panic!("{at}: {:?}", node.pending) };
                let expected = &blocks[&hash(&row[2])];
                assert_eq!((context.epoch, context.parent_hash), (number(3), expected.parent), "{at}");
                proposals += 1;
            }
            ("out", "vote") => {
                let vote = node.take_vote().or_else(|| {
                    node.wait_until(node.entered + 2_000);
                    node.take_vote()
                });
                let vote = vote.unwrap_or_else(|| panic!("{at}: {:?}", node.pending));
                assert_eq!(
                    (vote.block, vote.height, vote.epoch),
                    (hash(&row[2]), number(3), number(4)),
                    "{at}"
                );
                votes += 1;
            }
            ("out", "highest_cc") => assert_eq!(node.engine.certified(), (hash(&row[2]), number(3)), "{at}"),
            ("out", "finalise") => {
                assert_eq!(node.engine.settled(), (hash(&row[2]), number(3)), "{at}");
                settled += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(votes >= 24 && settled >= 20 && proposals >= 10, "{votes} {settled} {proposals}");
    // And nothing besides: no second vote; the one proposal left is for the epoch with whose beginning the record ends.
    assert!(node.take_vote().is_none());
    let builds = node.pending.iter().filter_map(|effect| match effect {
        Effect::Build(context) => Some(context.epoch),
        _ => None,
    });
    assert_eq!(builds.collect::<Vec<_>>(), [node.engine.epoch()]);
}
