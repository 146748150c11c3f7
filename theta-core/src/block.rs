//! Blocks and headers (`core/block.go`). Transactions are opaque bytes here; the ledger gives them meaning.

use crate::{
    bls,
    certificate::{CertificateVotes, epoch_message},
    codec::rlp::{Decode, DecodeError, Encode, Fault, Item, Reader, encode_list_of, encode_string},
    hash::{Address, EMPTY_ROOT, Hash, keccak},
    rlp_list,
    sign::{SignError, Signature, Signer},
    spec::{CertificateRule, HeaderRules, Pace, ProposerRule, Rules},
    trie,
    vote::{EliteVotes, GuardianVotes},
};
use alloy_primitives::FixedBytes;
use num_bigint::BigUint;

/// A block on the wire is never larger: 512 transactions of the largest size the mempool takes fit many times.
pub const MAX_BLOCK_BYTES: usize = 16 * 1024 * 1024;

/// Logs' bloom filter of a block.
pub type Bloom = FixedBytes<256>;

/// A quorum's votes for a block; in a header, for an ancestor of that header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitCertificate {
    /// The votes, all for `block`.
    pub votes: CertificateVotes,
    /// The block they certify.
    pub block: Hash,
}

rlp_list!(CommitCertificate { votes, block });

impl CommitCertificate {
    /// A certificate without votes, for what needs none.
    pub fn bare(block: Hash) -> Self {
        Self { block, ..Self::default() }
    }
}

/// What a block adds to the randomness that draws proposers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Hash of the parent's seed and the signature: the proposers of children are drawn from it.
    pub value: Hash,
    /// The proposer's, over [`Seed::message`]. It has no other, so it chooses nothing but whether its block is seen at all.
    pub signature: bls::Signature,
}

impl Seed {
    /// What a proposer signs: `[domain, chain, epoch]`.
    pub fn message(chain: &str, epoch: u64) -> Vec<u8> {
        epoch_message("theta proposer seed", chain, epoch)
    }

    /// The seed that a signature makes of the parent's.
    pub fn after(parent: &Hash, signature: bls::Signature) -> Self {
        Self { value: keccak([parent.as_slice(), signature.as_bytes()].concat()), signature }
    }
}

/// Both in one string of 128 bytes.
impl Encode for Seed {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_string(&[self.value.as_slice(), self.signature.as_bytes()].concat(), out);
    }
}

impl Decode for Seed {
    /// Whether the signature is one is not looked at.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = input.array::<128>()?;
        let mut signature = [0; bls::Signature::LENGTH];
        signature.copy_from_slice(&bytes[32..]);
        let signature = bls::Signature::from_checked_bytes(signature);
        Ok(Self { value: Hash::from_slice(&bytes[..32]), signature })
    }
}

/// The fields that later forks added to headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Extension {
    /// Twelve fields: genesis, and everything before Theta 2.
    #[default]
    None,
    /// Thirteen fields.
    Guardians(Option<GuardianVotes>),
    /// Fourteen fields.
    GuardiansAndElite(Option<GuardianVotes>, Option<EliteVotes>),
}

impl Extension {
    /// The guardians' votes, if there are any.
    pub const fn guardian_votes(&self) -> Option<&GuardianVotes> {
        match self {
            Self::None => None,
            Self::Guardians(votes) | Self::GuardiansAndElite(votes, _) => votes.as_ref(),
        }
    }

    /// The elite edge nodes' votes, if there are any.
    pub const fn elite_votes(&self) -> Option<&EliteVotes> {
        match self {
            Self::GuardiansAndElite(_, votes) => votes.as_ref(),
            _ => None,
        }
    }

    /// Which header rules it belongs to.
    pub const fn rules(&self) -> HeaderRules {
        match self {
            Self::None => HeaderRules::Twelve,
            Self::Guardians(_) => HeaderRules::Guardians,
            Self::GuardiansAndElite(..) => HeaderRules::GuardiansAndElite,
        }
    }

    /// An extension without votes.
    pub const fn empty(rules: HeaderRules) -> Self {
        match rules {
            HeaderRules::Twelve => Self::None,
            HeaderRules::Guardians => Self::Guardians(None),
            HeaderRules::GuardiansAndElite => Self::GuardiansAndElite(None, None),
        }
    }
}

/// A block header. Its hash covers the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chain id as a string, such as `mainnet`.
    pub chain: String,
    /// The proposer's epoch.
    pub epoch: u64,
    /// Height; genesis has 0.
    pub height: u64,
    /// Hash of the block below.
    pub parent: Hash,
    /// Certificate of the highest certified ancestor the proposer knew.
    pub certificate: CommitCertificate,
    /// Root over the transactions; see [`transactions_root`].
    pub transactions_root: Hash,
    /// Root over the receipts of contract transactions, where the rules commit headers to them; else the empty root, which
    /// nobody checks.
    pub receipts_root: Hash,
    /// Ethereum's filter over the logs, where the rules commit headers to it; else zero, which nobody checks.
    pub bloom: Bloom,
    /// State root after this block.
    pub state_root: Hash,
    /// Seconds since 1970. No width limit on the wire.
    pub timestamp: BigUint,
    /// Who proposes.
    pub proposer: Address,
    /// The proposer's, over [`Header::digest`].
    pub signature: Signature,
    /// Votes of guardians and elite edge nodes.
    pub extension: Extension,
    /// Where proposers are drawn from a seed, the block's part of it; else none.
    pub seed: Option<Seed>,
    /// Where the rules skip absent validators: who is not drawn to propose children, in the order in which they have let their
    /// epochs pass. Not there if nobody is, so that such headers are as long as before there was this field.
    pub absent: Vec<Address>,
}

/// Bytes of the fields of a header that are as long in each, and about those of a vote, for [`Encode::size_hint`].
const FIELDS_SIZE: usize = 480;
const VOTE_SIZE: usize = 140;

impl Header {
    /// The header of all zeros that fills unused places of genesis files.
    pub fn zero() -> Self {
        Self {
            chain: String::new(),
            epoch: 0,
            height: 0,
            parent: Hash::ZERO,
            certificate: CommitCertificate::default(),
            transactions_root: Hash::ZERO,
            receipts_root: Hash::ZERO,
            bloom: Bloom::ZERO,
            state_root: Hash::ZERO,
            timestamp: BigUint::ZERO,
            proposer: Address::ZERO,
            signature: Signature::EMPTY,
            extension: Extension::None,
            seed: None,
            absent: Vec::new(),
        }
    }

    /// What the proposers of children are drawn from: the header's seed, and the hash of one that has none, as genesis.
    pub fn draw(&self) -> Hash {
        self.seed.map_or_else(|| self.hash(), |seed| seed.value)
    }

    /// Whether it has the fields that headers have under these rules, and its certificate their form.
    pub fn fits(&self, rules: &Rules) -> bool {
        let votes = &self.certificate.votes;
        self.extension.rules() == rules.header
            && self.seed.is_some() == (rules.consensus.proposer == ProposerRule::ProposerSeeded)
            && (self.absent.is_empty() || rules.consensus.skips_absent)
            && match rules.consensus.certificate {
                CertificateRule::VoteList => votes.aggregate().is_none(),
                CertificateRule::Aggregate => votes.list().is_empty(),
            }
    }

    /// Hash of the block: Keccak-256 of the encoded header, signature included.
    pub fn hash(&self) -> Hash {
        keccak(self.to_rlp())
    }

    /// What the proposer signs: the header with an empty signature.
    pub fn digest(&self) -> Hash {
        let mut out = Vec::new();
        self.encode_signed_by(&Signature::EMPTY, &mut out);
        keccak(out)
    }

    /// What orders blocks in votes and locks: the height at the clocked pace, the epoch at the responsive one.
    pub const fn rank(&self, pace: Pace) -> u64 {
        match pace {
            Pace::Clocked => self.height,
            Pace::Responsive => self.epoch,
        }
    }

    /// Whether the proposer signed it.
    pub fn verify(&self) -> Result<(), SignError> {
        if self.signature.recover(&self.digest())? == self.proposer { Ok(()) } else { Err(SignError::NoKey) }
    }

    /// Signs it; `signer` has to be the proposer.
    pub fn sign(&mut self, signer: &dyn Signer) -> Result<(), SignError> {
        self.signature = signer.sign(&self.digest())?;
        Ok(())
    }

    fn encode_signed_by(&self, signature: &Signature, out: &mut Vec<u8>) {
        encode_list_of(self.size_hint(), out, |out| {
            self.chain.encode(out);
            self.epoch.encode(out);
            self.height.encode(out);
            self.parent.encode(out);
            self.certificate.encode(out);
            self.transactions_root.encode(out);
            self.receipts_root.encode(out);
            encode_string(self.bloom.as_slice(), out);
            self.state_root.encode(out);
            self.timestamp.encode(out);
            self.proposer.encode(out);
            signature.encode(out);
            match &self.extension {
                Extension::None => {}
                Extension::Guardians(guardians) => encode_votes(guardians.as_ref(), out),
                Extension::GuardiansAndElite(guardians, elite) => {
                    encode_votes(guardians.as_ref(), out);
                    encode_votes(elite.as_ref(), out);
                }
            }
            match &self.seed {
                Some(seed) => seed.encode(out),
                // A block that its proposer has yet to sign.
                None if !self.absent.is_empty() => encode_string(&[], out),
                None => {}
            }
            if !self.absent.is_empty() {
                self.absent.encode(out);
            }
        });
    }
}

fn encode_votes<T: Encode>(votes: Option<&T>, out: &mut Vec<u8>) {
    match votes {
        Some(votes) => votes.encode(out),
        None => out.push(0xc0),
    }
}

fn decode_votes<T: Decode>(input: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
    if input.rest().first() == Some(&0xc0) {
        input.raw_item()?;
        return Ok(None);
    }
    T::decode(input).map(Some)
}

impl Encode for Header {
    fn encode(&self, out: &mut Vec<u8>) {
        self.encode_signed_by(&self.signature, out);
    }

    /// Without the votes of guardians and elite edge nodes, which few headers have.
    fn size_hint(&self) -> usize {
        let votes = match &self.certificate.votes {
            CertificateVotes::List(votes) => VOTE_SIZE * votes.as_slice().len(),
            CertificateVotes::Aggregate(_) => VOTE_SIZE,
        };
        FIELDS_SIZE + self.chain.len() + votes + self.signature.size_hint() + 21 * self.absent.len()
    }
}

impl Item for Header {}

impl Decode for Header {
    /// Reads 12, 13 or 14 fields, a seed behind them, which alone is no list and is empty before it is made, and absent
    /// validators behind that; whether that is right at its height [`Header::fits`] says.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let mut header = Self {
            chain: list.read()?,
            epoch: list.read()?,
            height: list.read()?,
            parent: list.read()?,
            certificate: list.read()?,
            transactions_root: list.read()?,
            receipts_root: list.read()?,
            bloom: FixedBytes(list.array()?),
            state_root: list.read()?,
            timestamp: list.read()?,
            proposer: list.read()?,
            signature: list.read()?,
            extension: Extension::None,
            seed: None,
            absent: Vec::new(),
        };
        let has_votes = |list: &Reader<'_>| list.rest().first().is_some_and(|first| *first >= 0xc0);
        if has_votes(&list) {
            let guardians = decode_votes(&mut list)?;
            header.extension = if has_votes(&list) {
                Extension::GuardiansAndElite(guardians, decode_votes(&mut list)?)
            } else {
                Extension::Guardians(guardians)
            };
        }
        let is_unsigned = list.rest().first() == Some(&0x80);
        if is_unsigned {
            list.raw_item()?;
        } else if !list.is_empty() {
            header.seed = Some(list.read()?);
        }
        if is_unsigned || !list.is_empty() {
            let nobody = list.error(Fault::Value("a list of absent validators names some"));
            header.absent = list.read()?;
            if header.absent.is_empty() {
                return Err(nobody);
            }
        }
        list.finish()?;
        Ok(header)
    }
}

/// A header and its transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// Raw transactions in order.
    pub transactions: Vec<Vec<u8>>,
}

rlp_list!(Block { header, transactions });

/// Root over transactions: a trie from `rlp(index)` to the raw bytes.
pub fn transactions_root(transactions: &[Vec<u8>]) -> Hash {
    if transactions.is_empty() {
        return EMPTY_ROOT;
    }
    trie::list_root(transactions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zero_header_has_its_known_bytes() {
        // core/block.go EncodeRLP of a nil header; the RLP of genesis files.
        let bytes = Header::zero().to_rlp();
        assert_eq!(&bytes[..6], &[0xf9, 0x01, 0xc4, 0x80, 0x80, 0x80]);
        assert_eq!(bytes.len(), 3 + 0x1c4);
        assert_eq!(Header::from_rlp(&bytes, 1 << 16), Ok(Header::zero()));
    }

    #[test]
    fn the_number_of_fields_says_which_votes_there_are() {
        for rules in [HeaderRules::Twelve, HeaderRules::Guardians, HeaderRules::GuardiansAndElite] {
            let signature = bls::Signature::from_checked_bytes([0x91; 96]);
            let seed = Some(Seed::after(&Hash::ZERO, signature));
            let absent = vec![Address::repeat_byte(2), Address::repeat_byte(1)];
            for (seed, absent) in
                [(None, Vec::new()), (None, absent.clone()), (seed, Vec::new()), (seed, absent)]
            {
                let header = Header { extension: Extension::empty(rules), seed, absent, ..Header::zero() };
                let bytes = header.to_rlp();
                let read = Header::from_rlp(&bytes, 1 << 16).expect("whole");
                assert_eq!(read.extension.rules(), rules);
                assert_eq!(read, header);
            }
        }
    }

    #[test]
    fn a_header_names_absent_validators_only_if_there_are_some_and_where_they_are_skipped() {
        let signature = bls::Signature::from_checked_bytes([0x91; 96]);
        let seed = Some(Seed::after(&Hash::ZERO, signature));
        let header = Header { seed, absent: vec![Address::ZERO], ..Header::zero() };
        let mut bytes = header.to_rlp();
        // The list of one address becomes an empty one.
        bytes.truncate(bytes.len() - 22);
        bytes.push(0xc0);
        let length = u16::try_from(bytes.len() - 3).expect("short").to_be_bytes();
        bytes[1..3].copy_from_slice(&length);
        let error = Header::from_rlp(&bytes, 1 << 16).expect_err("two encodings of one header");
        assert_eq!(error.fault, Fault::Value("a list of absent validators names some"));
        let unsigned = Header { seed: None, ..header.clone() }.to_rlp();
        let cut = unsigned.len() - 22;
        let mut bytes = unsigned[..cut].to_vec();
        let length = u16::try_from(bytes.len() - 3).expect("short").to_be_bytes();
        bytes[1..3].copy_from_slice(&length);
        assert!(Header::from_rlp(&bytes, 1 << 16).is_err(), "no seed in two ways");

        let mut rules = crate::spec::ChainSpec::devnet().rules(1).clone();
        rules.header = HeaderRules::Twelve;
        assert!(header.fits(&rules));
        rules.consensus.skips_absent = false;
        assert!(!header.fits(&rules));
        assert!(Header { absent: Vec::new(), ..header }.fits(&rules));
    }

    #[test]
    fn a_cut_header_is_an_error_at_every_byte() {
        let bytes = Header::zero().to_rlp();
        for cut in 0..bytes.len() {
            let error = Header::from_rlp(&bytes[..cut], 1 << 16).expect_err("cut");
            assert_eq!(error.fault, Fault::Cut, "cut at {cut}");
        }
    }
}
