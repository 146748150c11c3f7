//! Chain files: settled blocks with their votes, from the highest down (`ledger.md` 9, `snapshot/chain_import.go`).

use std::io::{Read, Seek, SeekFrom, Write};

use theta_core::{
    block::{Block, MAX_BLOCK_BYTES},
    certificate::CertificateVotes,
    codec::rlp::Encode,
    hash::Hash,
    rlp_list,
};

use crate::{
    error::SnapshotError,
    ledger::{At, LedgerReader},
    records::{Records, write_record},
};

/// A block as the reference stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Extended {
    block: Block,
    children: Vec<Hash>,
    status: u8,
    changes_validators: bool,
}

rlp_list!(Extended { block, children, status, changes_validators });

struct Backup {
    extended: Extended,
    votes: CertificateVotes,
}

rlp_list!(Backup { extended, votes });

/// A block of a chain file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainBlock {
    /// The block.
    pub block: Block,
    /// Its hash.
    pub hash: Hash,
    /// Votes for it; they may be fewer than certify it. The signatures of a list have been checked, that of an aggregate
    /// has not: only who knows the validators can.
    pub votes: CertificateVotes,
    /// The reference's status number.
    pub status: u8,
    /// Whether the set-change rule counts it.
    pub changes_validators: bool,
}

/// A chain file, read from its lowest block up although it begins with the highest.
#[derive(Debug)]
pub struct ChainFile<R> {
    file: R,
    /// Where each record begins, ascending by height.
    places: Vec<u64>,
    next: usize,
    below: Option<Below>,
}

/// What the block below says of the next one.
#[derive(Debug)]
struct Below {
    height: u64,
    hash: Hash,
    children: Vec<Hash>,
}

impl<R: Read + Seek> ChainFile<R> {
    /// Finds the blocks of a file. Reads lengths only, so a file of any size opens at once.
    pub fn open(mut file: R) -> Result<Self, SnapshotError> {
        let end = file.seek(SeekFrom::End(0))?;
        let (mut at, mut places) = (0, Vec::new());
        while at < end {
            file.seek(SeekFrom::Start(at))?;
            let cut = |needed| SnapshotError::Cut {
                record: places.len(),
                at: usize::try_from(at).unwrap_or(usize::MAX),
                needed,
                left: usize::try_from(end - at).unwrap_or(usize::MAX),
            };
            let mut length = [0; 8];
            if end - at < 8 {
                return Err(cut(8));
            }
            file.read_exact(&mut length)?;
            let length = u64::from_le_bytes(length);
            match at.checked_add(8).and_then(|begin| begin.checked_add(length)) {
                Some(next) if next <= end => {
                    places.push(at);
                    at = next;
                }
                _ => return Err(cut(length.saturating_add(8))),
            }
        }
        places.reverse();
        Ok(Self { file, places, next: 0, below: None })
    }

    /// Blocks in the file.
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn read_next(&mut self) -> Result<Option<ChainBlock>, SnapshotError> {
        let Some(place) = self.places.get(self.next) else { return Ok(None) };
        let number = self.places.len() - 1 - self.next;
        self.file.seek(SeekFrom::Start(*place))?;
        let mut records = Records::at(&mut self.file, number, usize::try_from(*place).unwrap_or(usize::MAX));
        let record = records.require("a block belongs here")?;
        let Backup { extended, votes } = record.decode()?;
        if extended.block.to_rlp().len() > MAX_BLOCK_BYTES {
            return Err(record.unexpected("the block is larger than any block may be"));
        }
        let header = &extended.block.header;
        let hash = header.hash();
        if let Some(below) = &self.below
            && (header.parent != below.hash
                || header.height != below.height + 1
                || !below.children.contains(&hash))
        {
            return Err(record.unexpected("the block does not stand on the one below it"));
        }
        if !votes.list().iter().all(|vote| vote.block == hash && vote.verify().is_ok()) {
            return Err(record.unexpected("a vote beside the block is not a valid one for it"));
        }
        let height = header.height;
        let Extended { block, status, changes_validators, children } = extended;
        self.below = Some(Below { height, hash, children });
        self.next += 1;
        Ok(Some(ChainBlock { block, hash, votes, status, changes_validators }))
    }
}

impl<R: Read + Seek> Iterator for ChainFile<R> {
    type Item = Result<ChainBlock, SnapshotError>;

    /// The next block, each on top of the one before. After an error nothing more comes.
    fn next(&mut self) -> Option<Self::Item> {
        let found = self.read_next().transpose();
        if matches!(found, Some(Err(_))) {
            self.next = self.places.len();
        }
        found
    }
}

/// Writes the settled blocks of these heights; gives how many. Votes are those that the block above holds, so the newest
/// block needs one above it.
pub fn export(
    reader: &LedgerReader,
    first: u64,
    last: u64,
    out: &mut impl Write,
) -> Result<u64, SnapshotError> {
    let block = |height| reader.block(At::Height(height))?.ok_or(SnapshotError::NotHere(height));
    for height in (first..=last).rev() {
        let (info, above) = (block(height)?, block(height + 1)?);
        let certificate = &above.block.header.certificate;
        let is_its = certificate.block == info.hash;
        let votes = if is_its { certificate.votes.clone() } else { CertificateVotes::default() };
        let extended = Extended {
            block: (*info.block).clone(),
            children: vec![above.hash],
            status: info.status,
            changes_validators: info.changes_validators,
        };
        write_record(out, &Backup { extended, votes }.to_rlp())?;
    }
    out.flush()?;
    Ok((last + 1).saturating_sub(first))
}
