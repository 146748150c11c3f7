//! Contracts that development networks hold from genesis on. Sources, build script and artifacts with ABIs are in
//! `contracts/`; the code runs under either rule set.

use theta_core::hash::Address;

/// A contract of genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contract {
    /// Its name in the sources.
    pub name: &'static str,
    /// Where it stands.
    pub address: Address,
    hex: &'static str,
}

impl Contract {
    /// Its code.
    pub fn code(&self) -> Vec<u8> {
        hex::decode(self.hex.trim()).expect("the build script writes hex")
    }
}

/// `THETA` in ASCII, then zeros and a number.
const fn ours(number: u8) -> Address {
    Address::new([b'T', b'H', b'E', b'T', b'A', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number])
}

/// THETA as a token.
pub const WRAPPED_THETA: Contract = Contract {
    name: "WrappedTheta",
    address: ours(1),
    hex: include_str!("../contracts/artifacts/WrappedTheta.hex"),
};

/// A token of standard 20 that everybody mints.
pub const TEST_TOKEN_20: Contract = Contract {
    name: "TestToken20",
    address: ours(2),
    hex: include_str!("../contracts/artifacts/TestToken20.hex"),
};

/// Things of standard 721 that everybody mints.
pub const TEST_TOKEN_721: Contract = Contract {
    name: "TestToken721",
    address: ours(3),
    hex: include_str!("../contracts/artifacts/TestToken721.hex"),
};

/// Many calls in one, where Multicall3 stands on other chains.
pub const MULTICALL: Contract = Contract {
    name: "Multicall",
    address: Address::new([
        0xca, 0x11, 0xbd, 0xe0, 0x59, 0x77, 0xb3, 0x63, 0x11, 0x67, 0x02, 0x88, 0x62, 0xbe, 0x2a, 0x17, 0x39,
        0x76, 0xca, 0x11,
    ]),
    hex: include_str!("../contracts/artifacts/Multicall.hex"),
};

/// All of them.
pub const ALL: [Contract; 4] = [WRAPPED_THETA, TEST_TOKEN_20, TEST_TOKEN_721, MULTICALL];
