// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {TNT20} from "./TNT20.sol";

/// THETA as a token. THETA reaches a contract only with the transaction's own call, or by precompile 203; either way
/// `deposit` in the same transaction makes tokens of all THETA that has none yet. `withdraw` gives THETA back.
contract WrappedTheta is TNT20 {
    event Deposit(address indexed to, uint256 amount);
    event Withdrawal(address indexed from, uint256 amount);

    address private constant BALANCE = address(201);
    address private constant TRANSFER = address(203);

    function name() public pure override returns (string memory) {
        return "Wrapped Theta";
    }

    function symbol() public pure override returns (string memory) {
        return "WTHETA";
    }

    /// THETA that this contract holds.
    function held() public view returns (uint256 amount) {
        (bool done, bytes memory word) = BALANCE.staticcall(abi.encodePacked(address(this)));
        require(done && word.length == 32, "balance");
        amount = abi.decode(word, (uint256));
    }

    function deposit() public returns (uint256 amount) {
        amount = held() - totalSupply;
        require(amount > 0, "no THETA came along");
        _mint(msg.sender, amount);
        emit Deposit(msg.sender, amount);
    }

    function withdraw(uint256 amount) external {
        _burn(msg.sender, amount);
        (bool done,) = TRANSFER.call(abi.encodePacked(msg.sender, amount));
        require(done, "transfer");
        emit Withdrawal(msg.sender, amount);
    }

    fallback() external {
        deposit();
    }
}
