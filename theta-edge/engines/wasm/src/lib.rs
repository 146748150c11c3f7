//! theta-edge/engines/wasm
