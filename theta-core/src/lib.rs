//! theta-core
