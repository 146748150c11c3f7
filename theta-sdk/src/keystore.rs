//! Encrypted key files (Web3 Secret Storage, version 3) and the folder they lie in.
//!
//! A file is named by its address with mixed case and without `0x`; folders are 0700 and files 0600; a file is written
//! beside its name, synced and renamed. Parameters that would cost too much to try are refused before they are tried.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use aes::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};
use theta_core::{
    hash::{Address, keccak_parts},
    sign::SecretKey,
};
use zeroize::Zeroizing;

/// Memory that scrypt may take: 1 GiB.
const MAX_MEMORY: u64 = 1 << 30;
/// Work that scrypt may do, as N·r·p.
const MAX_WORK: u64 = 1 << 26;
/// Rounds that PBKDF2 may run.
const MAX_ROUNDS: u32 = 10_000_000;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// Wrong password, or a damaged file.
    #[error("could not decrypt key with given password")]
    Password,
    /// Not a key file that is understood.
    #[error("not a key file of version 3: {0}")]
    Format(String),
    /// Parameters beyond what is tried.
    #[error("the file's key derivation would take more memory or time than is allowed")]
    Parameters,
    /// The key is another address's.
    #[error("the file holds the key of {found}, not of {expected}")]
    OtherKey {
        /// By its name or its address field.
        expected: Address,
        /// By its key.
        found: Address,
    },
    /// No key of this address in the folder.
    #[error("no key of {0} in {1}")]
    Missing(Address, PathBuf),
    /// A key of this address lies there already.
    #[error("a key of {0} is there already")]
    Exists(Address),
    /// The folder or file is open to others.
    #[error("{0} is open to others; set its mode to {1:o}")]
    Mode(PathBuf, u32),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No randomness to be had.
    #[error("no randomness to make a key from: {0}")]
    Random(String),
}

/// How hard a password is to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// N = 2^18, about a second: for people's keys.
    Standard,
    /// N = 2^12: for tests and keys that are worth nothing.
    Light,
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default)]
    address: String,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
    #[serde(default)]
    id: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    ciphertext: String,
    cipherparams: CipherParams,
    kdf: String,
    kdfparams: KdfParams,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Serialize, Deserialize, Default)]
struct KdfParams {
    dklen: u32,
    salt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prf: Option<String>,
}

fn unhex(what: &str, text: &str) -> Result<Vec<u8>, KeystoreError> {
    hex::decode(text.trim_start_matches("0x"))
        .map_err(|_| KeystoreError::Format(format!("{what} is not hexadecimal")))
}

fn derive(kdf: &str, params: &KdfParams, password: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let missing = |what: &str| KeystoreError::Format(format!("{kdf} without {what}"));
    if params.dklen != 32 {
        return Err(KeystoreError::Format("the derived key has to have 32 bytes".to_owned()));
    }
    let salt = unhex("salt", &params.salt)?;
    let mut out = Zeroizing::new([0; 32]);
    match kdf {
        "scrypt" => {
            let n = params.n.ok_or_else(|| missing("n"))?;
            let (r, p) = (params.r.ok_or_else(|| missing("r"))?, params.p.ok_or_else(|| missing("p"))?);
            let work = n.checked_mul(u64::from(r));
            let memory = work.and_then(|work| work.checked_mul(128)).ok_or(KeystoreError::Parameters)?;
            let work =
                work.and_then(|work| work.checked_mul(u64::from(p))).ok_or(KeystoreError::Parameters)?;
            if !n.is_power_of_two() || n < 2 || memory > MAX_MEMORY || work > MAX_WORK {
                return Err(KeystoreError::Parameters);
            }
            let params =
                scrypt::Params::new(n.trailing_zeros() as u8, r, p).map_err(|_| KeystoreError::Parameters)?;
            scrypt::scrypt(password.as_bytes(), &salt, &params, &mut *out)
                .map_err(|_| KeystoreError::Parameters)?;
        }
        "pbkdf2" => {
            let rounds = params.c.ok_or_else(|| missing("c"))?;
            if params.prf.as_deref() != Some("hmac-sha256") {
                return Err(KeystoreError::Format("pbkdf2 with a prf other than hmac-sha256".to_owned()));
            }
            if rounds == 0 || rounds > MAX_ROUNDS {
                return Err(KeystoreError::Parameters);
            }
            pbkdf2::pbkdf2::<hmac::Hmac<sha2::Sha256>>(password.as_bytes(), &salt, rounds, &mut *out)
                .map_err(|_| KeystoreError::Parameters)?;
        }
        other => return Err(KeystoreError::Format(format!("unknown key derivation {other}"))),
    }
    Ok(out)
}

fn apply_cipher(key: &[u8; 32], iv: &[u8; 16], bytes: &mut [u8]) {
    let mut half = Zeroizing::new([0; 16]);
    half.copy_from_slice(&key[..16]);
    ctr::Ctr128BE::<aes::Aes128>::new((&*half).into(), iv.into()).apply_keystream(bytes);
}

/// Opens the text of a key file.
pub fn decrypt(json: &str, password: &str) -> Result<SecretKey, KeystoreError> {
    let file: File = serde_json::from_str(json).map_err(|error| KeystoreError::Format(error.to_string()))?;
    if file.version != 3 {
        return Err(KeystoreError::Format(format!("version is {}", file.version)));
    }
    let crypto = &file.crypto;
    if crypto.cipher != "aes-128-ctr" {
        return Err(KeystoreError::Format(format!("unknown cipher {}", crypto.cipher)));
    }
    let iv: [u8; 16] = unhex("iv", &crypto.cipherparams.iv)?
        .try_into()
        .map_err(|_| KeystoreError::Format("iv has to have 16 bytes".to_owned()))?;
    let mut secret = Zeroizing::new(unhex("ciphertext", &crypto.ciphertext)?);
    if secret.is_empty() || secret.len() > 32 {
        return Err(KeystoreError::Format("the ciphertext has 1 to 32 bytes".to_owned()));
    }
    let key = derive(&crypto.kdf, &crypto.kdfparams, password)?;
    let mac = keccak_parts(&[&key[16..], &secret]);
    if unhex("mac", &crypto.mac)? != mac.as_slice() {
        return Err(KeystoreError::Password);
    }
    apply_cipher(&key, &iv, &mut secret);
    let mut whole = Zeroizing::new([0; 32]);
    whole[32 - secret.len()..].copy_from_slice(&secret);
    let key = SecretKey::from_bytes(&*whole).map_err(|_| KeystoreError::Password)?;
    if let Ok(expected) = format!("0x{}", file.address.trim_start_matches("0x")).parse::<Address>()
        && expected != key.address()
    {
        return Err(KeystoreError::OtherKey { expected, found: key.address() });
    }
    Ok(key)
}

fn random<const N: usize>() -> Result<[u8; N], KeystoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| KeystoreError::Random(error.to_string()))?;
    Ok(bytes)
}

/// Makes a key.
pub fn fresh_key() -> Result<SecretKey, KeystoreError> {
    loop {
        let bytes = Zeroizing::new(random::<32>()?);
        // All but one in 2^128 numbers are keys.
        if let Ok(key) = SecretKey::from_bytes(&*bytes) {
            return Ok(key);
        }
    }
}

/// The text of a key file.
pub fn encrypt(key: &SecretKey, password: &str, effort: Effort) -> Result<String, KeystoreError> {
    let (salt, iv) = (random::<32>()?, random::<16>()?);
    let (n, p) = match effort {
        Effort::Standard => (1 << 18, 1),
        Effort::Light => (1 << 12, 6),
    };
    let kdfparams = KdfParams {
        dklen: 32,
        salt: hex::encode(salt),
        n: Some(n),
        r: Some(8),
        p: Some(p),
        ..KdfParams::default()
    };
    let derived = derive("scrypt", &kdfparams, password)?;
    let mut ciphertext = key.to_bytes().to_vec();
    apply_cipher(&derived, &iv, &mut ciphertext);
    let mac = keccak_parts(&[&derived[16..], &ciphertext]);
    let mut id = random::<16>()?;
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let id = hex::encode(id);
    let file = File {
        address: hex::encode(key.address()),
        crypto: Crypto {
            cipher: "aes-128-ctr".to_owned(),
            ciphertext: hex::encode(ciphertext),
            cipherparams: CipherParams { iv: hex::encode(iv) },
            kdf: "scrypt".to_owned(),
            kdfparams,
            mac: hex::encode(mac),
        },
        id: format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]),
        version: 3,
    };
    serde_json::to_string_pretty(&file).map_err(|error| KeystoreError::Format(error.to_string()))
}

/// A folder of key files.
#[derive(Clone, Debug)]
pub struct Keystore {
    folder: PathBuf,
    effort: Effort,
}

impl Keystore {
    /// Opens `folder`, or makes it; it has to be the owner's alone.
    pub fn open(folder: &Path, effort: Effort) -> Result<Self, KeystoreError> {
        let io = |source| KeystoreError::Io { path: folder.to_owned(), source };
        if !folder.exists() {
            fs::create_dir_all(folder).map_err(io)?;
            restrict(folder, 0o700)?;
        }
        check_mode(folder, 0o700)?;
        Ok(Self { folder: folder.to_owned(), effort })
    }

    fn path(&self, address: Address) -> PathBuf {
        self.folder.join(address.to_checksum(None).trim_start_matches("0x"))
    }

    /// The file of an address, whatever case its name is written in.
    fn find(&self, address: Address) -> Result<PathBuf, KeystoreError> {
        let mixed = self.path(address);
        let lower = self.folder.join(hex::encode(address));
        let upper = self.folder.join(hex::encode_upper(address));
        [lower, mixed, upper]
            .into_iter()
            .find(|path| path.is_file() && !path.is_symlink())
            .ok_or_else(|| KeystoreError::Missing(address, self.folder.clone()))
    }

    /// Addresses whose keys are there, ascending. Other files are passed over.
    pub fn list(&self) -> Result<Vec<Address>, KeystoreError> {
        let io = |source| KeystoreError::Io { path: self.folder.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let Some(name) = name.to_str().filter(|name| name.len() == 40) else { continue };
            if let Ok(bytes) = hex::decode(name) {
                found.push(Address::from_slice(&bytes));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Opens the key of an address.
    pub fn unlock(&self, address: Address, password: &str) -> Result<SecretKey, KeystoreError> {
        let path = self.find(address)?;
        check_mode(&path, 0o600)?;
        let json = fs::read_to_string(&path).map_err(|source| KeystoreError::Io { path, source })?;
        let key = decrypt(&json, password)?;
        if key.address() != address {
            return Err(KeystoreError::OtherKey { expected: address, found: key.address() });
        }
        Ok(key)
    }

    /// Stores a key; one that is there is not replaced.
    pub fn store(&self, key: &SecretKey, password: &str) -> Result<PathBuf, KeystoreError> {
        if self.find(key.address()).is_ok() {
            return Err(KeystoreError::Exists(key.address()));
        }
        let path = self.path(key.address());
        self.write(&path, &encrypt(key, password, self.effort)?)?;
        Ok(path)
    }

    /// Encrypts a key with another password.
    pub fn change_password(&self, address: Address, old: &str, new: &str) -> Result<(), KeystoreError> {
        let key = self.unlock(address, old)?;
        let path = self.find(address)?;
        self.write(&path, &encrypt(&key, new, self.effort)?)
    }

    /// Deletes the key of an address.
    pub fn delete(&self, address: Address) -> Result<(), KeystoreError> {
        let path = self.find(address)?;
        fs::remove_file(&path).map_err(|source| KeystoreError::Io { path, source })
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), KeystoreError> {
        let io = |source| KeystoreError::Io { path: path.to_owned(), source };
        let fresh = self.folder.join(format!(".{}.tmp", hex::encode(random::<8>()?)));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&fresh).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&fresh, path).map_err(io)?;
        fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

#[cfg(unix)]
fn restrict(path: &Path, mode: u32) -> Result<(), KeystoreError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| KeystoreError::Io { path: path.to_owned(), source })
}

#[cfg(unix)]
fn check_mode(path: &Path, mode: u32) -> Result<(), KeystoreError> {
    use std::os::unix::fs::PermissionsExt;
    let found = fs::metadata(path)
        .map_err(|source| KeystoreError::Io { path: path.to_owned(), source })?
        .permissions()
        .mode();
    if found & 0o077 == 0 { Ok(()) } else { Err(KeystoreError::Mode(path.to_owned(), mode)) }
}

#[cfg(not(unix))]
fn restrict(_: &Path, _: u32) -> Result<(), KeystoreError> {
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: u32) -> Result<(), KeystoreError> {
    Ok(())
}
