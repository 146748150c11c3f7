//! theta-consensus
