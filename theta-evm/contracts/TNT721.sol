// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

interface Receiver721 {
    function onERC721Received(address operator, address from, uint256 id, bytes calldata data) external returns (bytes4);
}

/// Things of Theta's standard 721, which is Ethereum's ERC-721.
abstract contract TNT721 {
    event Transfer(address indexed from, address indexed to, uint256 indexed id);
    event Approval(address indexed owner, address indexed spender, uint256 indexed id);
    event ApprovalForAll(address indexed owner, address indexed operator, bool approved);

    mapping(uint256 => address) internal _owners;
    mapping(address => uint256) internal _counts;
    mapping(uint256 => address) internal _approved;
    mapping(address => mapping(address => bool)) public isApprovedForAll;

    function name() public view virtual returns (string memory);

    function symbol() public view virtual returns (string memory);

    function tokenURI(uint256 id) public view virtual returns (string memory);

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == 0x80ac58cd || id == 0x5b5e139f;
    }

    function ownerOf(uint256 id) public view returns (address owner) {
        owner = _owners[id];
        require(owner != address(0), "no such thing");
    }

    function balanceOf(address owner) external view returns (uint256) {
        require(owner != address(0), "owner");
        return _counts[owner];
    }

    function getApproved(uint256 id) public view returns (address) {
        ownerOf(id);
        return _approved[id];
    }

    function approve(address spender, uint256 id) external {
        address owner = ownerOf(id);
        require(msg.sender == owner || isApprovedForAll[owner][msg.sender], "not allowed");
        _approved[id] = spender;
        emit Approval(owner, spender, id);
    }

    function setApprovalForAll(address operator, bool approved) external {
        isApprovedForAll[msg.sender][operator] = approved;
        emit ApprovalForAll(msg.sender, operator, approved);
    }

    function transferFrom(address from, address to, uint256 id) public {
        require(ownerOf(id) == from, "owner");
        require(to != address(0), "recipient");
        require(
            msg.sender == from || _approved[id] == msg.sender || isApprovedForAll[from][msg.sender], "not allowed"
        );
        delete _approved[id];
        unchecked {
            _counts[from] -= 1;
            _counts[to] += 1;
        }
        _owners[id] = to;
        emit Transfer(from, to, id);
    }

    function safeTransferFrom(address from, address to, uint256 id) external {
        safeTransferFrom(from, to, id, "");
    }

    function safeTransferFrom(address from, address to, uint256 id, bytes memory data) public {
        transferFrom(from, to, id);
        if (to.code.length > 0) {
            bytes4 answer = Receiver721(to).onERC721Received(msg.sender, from, id, data);
            require(answer == Receiver721.onERC721Received.selector, "receiver");
        }
    }

    function _mint(address to, uint256 id) internal {
        require(to != address(0), "recipient");
        require(_owners[id] == address(0), "taken");
        _owners[id] = to;
        unchecked {
            _counts[to] += 1;
        }
        emit Transfer(address(0), to, id);
    }
}

/// Things for development: everybody mints.
contract TestToken721 is TNT721 {
    function name() public pure override returns (string memory) {
        return "Test TNT-721";
    }

    function symbol() public pure override returns (string memory) {
        return "TT721";
    }

    function tokenURI(uint256 id) public view override returns (string memory) {
        ownerOf(id);
        return "";
    }

    function mint(address to, uint256 id) external {
        _mint(to, id);
    }
}
