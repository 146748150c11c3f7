//! theta-evm
