//! Primitives: what one operation of the machine costs, in the same run.

use std::{
    fs::File,
    hint::black_box,
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::Duration,
};

use secp256k1::{
    Message, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};
use theta_core::{
    hash::{Hash, keccak},
    sign::SecretKey,
};

use crate::{Times, busy, timed};

/// Median of `rounds` runs, divided by the operations of one.
fn median(rounds: usize, operations: u32, mut act: impl FnMut()) -> Duration {
    Times::of((0..rounds).map(|_| busy(&mut act).1).collect()).median / operations
}

/// A signature and its digest, as the library of the curve takes them.
pub struct Recovery(RecoverableSignature, Message);

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recovery").finish_non_exhaustive()
    }
}

impl Recovery {
    /// The signature of a digest by a key.
    pub fn new(key: &SecretKey, digest: Hash) -> Self {
        let signature = key.sign_digest(&digest);
        let bytes = signature.as_bytes();
        let id = RecoveryId::try_from(i32::from(bytes[64])).expect("just signed");
        let signature = RecoverableSignature::from_compact(&bytes[..64], id).expect("just signed");
        Self(signature, Message::from_digest(digest.0))
    }

    /// Recovers the key: the peer of everything that checks a signature.
    pub fn run(&self) {
        black_box(SECP256K1.recover_ecdsa(self.1, &self.0).expect("just signed"));
    }
}

/// `t_rec`: one recovery.
pub fn recover() -> Duration {
    let key = SecretKey::from_bytes(&[3; 32]).expect("in range");
    let recovery = Recovery::new(&key, keccak("a digest"));
    median(21, 100, || (0..100).for_each(|_| recovery.run()))
}

/// `t_perm`: one Keccak-f, by the hash of a message of 135 bytes.
pub fn permutation() -> Duration {
    let message = [7_u8; 135];
    median(21, 1000, || {
        for _ in 0..1000 {
            black_box(keccak(black_box(message)));
        }
    })
}

/// `t_sync`: 4 KiB written and synced to a file in this folder.
pub fn sync(folder: &Path) -> std::io::Result<Duration> {
    let mut file = File::create(folder.join("sync"))?;
    file.write_all(&[1; 4096])?;
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..41 {
        let (done, time) = timed(|| -> std::io::Result<()> {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&[2; 4096])?;
            file.sync_data()
        });
        done?;
        times.push(time);
    }
    Ok(Times::of(times).median)
}

/// `B_disk`: bytes a second, written in a row and synced, to a file in this folder.
pub fn disk(folder: &Path) -> std::io::Result<f64> {
    let (bytes, chunk) = (64 << 20, vec![3; 1 << 20]);
    let path = folder.join("disk");
    let mut file = File::create(&path)?;
    let (done, time) = timed(|| -> std::io::Result<()> {
        (0..bytes / chunk.len()).try_for_each(|_| file.write_all(&chunk))?;
        file.sync_all()
    });
    done?;
    std::fs::remove_file(path)?;
    Ok(bytes as f64 / time.as_secs_f64())
}

/// `t_ver`: one verification with a known key.
pub fn verify() -> Duration {
    let key = SecretKey::from_bytes(&[3; 32]).expect("in range");
    let digest = keccak("a digest");
    let recovery = Recovery::new(&key, digest);
    let public = SECP256K1.recover_ecdsa(recovery.1, &recovery.0).expect("just signed");
    let signature = recovery.0.to_standard();
    median(21, 100, || {
        for _ in 0..100 {
            SECP256K1.verify_ecdsa(recovery.1, &signature, &public).expect("just signed");
            black_box(());
        }
    })
}
