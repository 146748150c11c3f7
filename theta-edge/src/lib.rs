//! theta-edge
