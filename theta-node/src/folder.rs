//! What lies in a node's data folder: the store, the genesis, and what the node itself keeps beside them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use theta_core::{
    journal::{Disk, FileDisk},
    store::{FjallStore, Store, StoreError},
};
use theta_ledger::{error::SnapshotError, genesis::Genesis};

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// No node and no import has used it.
    #[error("{0} holds no chain; name the data folder of a node, or import a chain there first")]
    NoChain(PathBuf),
    /// Neither named nor where it would be.
    #[error("there is no genesis file in {0} or above it; name it with --genesis")]
    NoGenesis(PathBuf),
    /// Its genesis file is damaged.
    #[error("{path}")]
    Genesis {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SnapshotError,
    },
    /// Reading or writing failed.
    #[error("{path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store did not open.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node's data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFolder(PathBuf);

impl DataFolder {
    /// The folder at a path; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn store_path(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Whether there is a store.
    pub fn has_store(&self) -> bool {
        self.store_path().is_dir()
    }

    /// Opens the store, or makes it. One process at a time.
    pub fn store(&self) -> Result<Arc<dyn Store>, FolderError> {
        let io = |source| FolderError::Io { path: self.0.clone(), source };
        std::fs::create_dir_all(&self.0).map_err(io)?;
        Ok(Arc::new(FjallStore::open(&self.store_path())?))
    }

    /// Opens the store where there is one, and makes nothing.
    pub fn existing_store(&self) -> Result<Arc<dyn Store>, FolderError> {
        if self.has_store() { self.store() } else { Err(FolderError::NoChain(self.0.clone())) }
    }

    /// The genesis file here, or in the folder above, where a devnet keeps that of all its nodes.
    pub fn genesis(&self) -> Result<Genesis, FolderError> {
        let above = self.0.parent().map(|above| above.join("genesis"));
        let path = [Some(self.0.join("genesis")), above].into_iter().flatten().find(|path| path.is_file());
        read_genesis(&path.ok_or_else(|| FolderError::NoGenesis(self.0.clone()))?)
    }

    /// Keeps the genesis beside the store, for whoever opens it next.
    pub fn keep_genesis(&self, genesis: &Genesis) -> Result<(), FolderError> {
        let path = self.0.join("genesis");
        if path.exists() {
            return Ok(());
        }
        write_durably(&path, &genesis.write())
    }
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    FileDisk::open(path)
        .and_then(|mut disk| disk.replace(bytes))
        .map_err(|source| FolderError::Io { path: path.to_owned(), source })
}

/// Reads a genesis file.
pub(crate) fn read_genesis(path: &Path) -> Result<Genesis, FolderError> {
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(io)?;
    Genesis::read(&bytes, None).map_err(|source| FolderError::Genesis { path: path.to_owned(), source })
}
