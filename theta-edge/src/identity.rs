//! Who a node is: the address of its key.
//!
//! The node key signs every message and is also the account that is paid, so nothing has to bind the two together.

use std::fmt;

use serde::{Deserialize, Serialize};
use theta_core::hash::Address;
use theta_core::sign::Signer;

/// An edge node or a requester: the address of its secp256k1 key. Payments to it go to this account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Address);

impl NodeId {
    /// The identity of whoever holds this key.
    pub fn of(signer: &dyn Signer) -> Self {
        Self(signer.address())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
