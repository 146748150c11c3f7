//! theta-ledger
