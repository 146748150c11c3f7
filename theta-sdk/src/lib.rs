//! theta-sdk
