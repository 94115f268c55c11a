// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// OpenZeppelin's ERC-20 as published, with all of its supply for who deploys it.
contract Token is ERC20 {
    constructor(uint256 supply) ERC20("Ghost Test Token", "GTT") {
        _mint(msg.sender, supply);
    }
}
