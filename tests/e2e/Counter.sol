// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

contract Counter {
    event Increased(address indexed by, uint256 indexed step, uint256 count);

    error TooLarge(uint256 step);

    uint256 public count;
    mapping(uint256 => uint256) public history;

    constructor(uint256 first) {
        count = first;
    }

    function increase(uint256 step) external payable returns (uint256) {
        require(step != 0, "step is zero");
        if (step > 1000) revert TooLarge(step);
        count += step;
        history[count] = block.number;
        emit Increased(msg.sender, step, count);
        return count;
    }

    function sum(uint256 n) external pure returns (uint256 total) {
        for (uint256 i = 1; i <= n; i++) total += i;
    }
}
