//! The two encodings: [`rlp`] for what is hashed, signed or sent, [`record`] for rows that never leave a node.

pub mod record;
pub mod rlp;
