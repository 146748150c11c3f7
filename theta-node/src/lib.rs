//! theta-node
