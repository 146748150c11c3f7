// ethers 6 as it comes from npm.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Contract, ContractFactory, JsonRpcProvider, Transaction, Wallet, WebSocketProvider, ZeroAddress, getCreateAddress, parseEther } from "ethers";
import solc from "solc";

import { account, ask, call, check, refused, until } from "./harness.mjs";
import { freshAddress } from "./native.mjs";

const GAS_PRICE = 4_000_000_000_000n;

function compile() {
  const content = readFileSync(new URL("Counter.sol", import.meta.url), "utf8");
  const output = JSON.parse(
    solc.compile(
      JSON.stringify({
        language: "Solidity",
        sources: { "Counter.sol": { content } },
        settings: {
          evmVersion: "istanbul",
          optimizer: { enabled: true },
          outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
        },
      }),
    ),
  );
  const errors = (output.errors ?? []).filter(({ severity }) => severity === "error");
  assert.deepEqual(errors, []);
  const { abi, evm } = output.contracts["Counter.sol"].Counter;
  return { abi, bytecode: `0x${evm.bytecode.object}`, deployed: `0x${evm.deployedBytecode.object}` };
}

export async function ethers({ ethRpc, ethWs, thetaRpc, ethChainId, accounts }) {
  // A cache would hide what the node answers.
  const provider = new JsonRpcProvider(ethRpc, undefined, { cacheTimeout: -1, pollingInterval: 100 });
  const wallet = new Wallet(accounts[2].privateKey, provider);
  const second = new Wallet(accounts[3].privateKey, provider);
  const mined = (sent) => sent.wait(1, 20_000);
  try {
    await plain();
    await contract();
  } finally {
    provider.destroy();
  }

  async function plain() {
    await check("ethers: network, block number, balance", async () => {
      assert.equal((await provider.getNetwork()).chainId, BigInt(ethChainId));
      assert.equal(await provider.send("net_version", []), String(ethChainId));
      assert((await provider.getBlockNumber()) > 0);
      assert.equal(wallet.address, accounts[2].address);
      assert.equal(await provider.getBalance(wallet.address), BigInt(accounts[2].tfuelWei));
      assert.equal(await provider.getBalance(freshAddress()), 0n);
      assert.equal(await provider.getBalance(wallet.address, 0), BigInt(accounts[2].tfuelWei));
    });

    await check("ethers: no base fee, so fees are a gas price", async () => {
      const block = await provider.getBlock("latest");
      assert.equal(block.baseFeePerGas, null);
      const fees = await provider.getFeeData();
      assert.equal(fees.gasPrice, GAS_PRICE);
      assert.equal(fees.maxFeePerGas, null);
      assert.equal((await provider.getBlock(block.hash)).number, block.number);
      assert.equal((await provider.getBlock(block.number - 1)).hash, block.parentHash);
      assert.equal(await provider.getBlock(999_999_999), null);
    });

    await check("ethers: a value transfer to a fresh address", async () => {
      const to = freshAddress();
      const before = await provider.getBalance(wallet.address);
      const sent = await wallet.sendTransaction({ to, value: parseEther("1.25") });
      assert.equal(sent.type, 0);
      const receipt = await mined(sent);
      assert.equal(receipt.status, 1);
      assert.equal(receipt.hash, sent.hash);
      assert.equal(receipt.to, to);
      assert.equal(receipt.contractAddress, null);
      assert.equal(await provider.getBalance(to), parseEther("1.25"));
      const paid = before - (await provider.getBalance(wallet.address));
      assert.equal(paid, parseEther("1.25") + receipt.gasUsed * receipt.gasPrice);
      const found = await provider.getTransaction(sent.hash);
      assert.equal(found.blockHash, receipt.blockHash);
      assert.equal(found.hash, sent.hash);
      assert.equal(found.from, wallet.address);
      assert.equal(found.nonce, sent.nonce);
      assert.equal(found.value, parseEther("1.25"));
      assert.equal(found.chainId, BigInt(ethChainId));
      const block = await provider.getBlock(receipt.blockNumber, true);
      assert.equal(block.hash, receipt.blockHash);
      assert.deepEqual(block.transactions.filter((hash) => hash === sent.hash).length, 1);
      assert.equal(block.getPrefetchedTransaction(sent.hash).nonce, sent.nonce);
      // The native side knows it by the same hash and by its own.
      const native = await call(thetaRpc, "theta.GetTransaction", { hash: sent.hash });
      assert.equal(native.status, "finalized");
      assert.equal(native.block_hash, receipt.blockHash);
      assert.equal(native.type, 7);
      assert.equal((await provider.getTransactionReceipt(native.hash)).hash, sent.hash);
      assert.equal(await provider.getTransactionReceipt(`0x${"56".repeat(32)}`), null);
    });

    await check("ethers: nonces: a later one waits, latest and pending tell them apart, a used one is NONCE_EXPIRED", async () => {
      const to = freshAddress();
      const nonce = await provider.getTransactionCount(second.address, "pending");
      const send = (offset) =>
        second.sendTransaction({ to, value: 1n, nonce: nonce + offset, gasLimit: 21_000n, gasPrice: GAS_PRICE });
      const later = await send(1);
      assert.equal(await provider.getTransactionCount(second.address, "latest"), nonce);
      const both = [await send(0), later];
      for (const receipt of await Promise.all(both.map(mined))) assert.equal(receipt.status, 1);
      assert.equal(await provider.getTransactionCount(second.address, "latest"), nonce + 2);
      assert.equal(await provider.getTransactionCount(second.address, "pending"), nonce + 2);
      assert.equal(await provider.getBalance(to), 2n);
      assert.equal((await refused(send(0))).code, "NONCE_EXPIRED");
    });

    await check("ethers: transfers one after another, nonces looked up by the library", async () => {
      const to = freshAddress();
      for (let round = 0; round < 3; round += 1) {
        assert.equal((await mined(await second.sendTransaction({ to, value: 5n }))).status, 1);
      }
      assert.equal(await provider.getBalance(to), 15n);
    });

    await check("ethers: typed transactions of a development network", async () => {
      const to = freshAddress();
      const base = { to, gasLimit: 30_000n, value: 7n };
      const fees = { maxFeePerGas: 2n * GAS_PRICE, maxPriorityFeePerGas: 1n };
      const sent = await wallet.sendTransaction({ ...base, type: 2, ...fees });
      const receipt = await mined(sent);
      assert.deepEqual([receipt.gasPrice, receipt.type], [GAS_PRICE + 1n, 2]);
      const found = await provider.getTransaction(sent.hash);
      assert.deepEqual([found.type, found.maxFeePerGas, found.from], [2, 2n * GAS_PRICE, wallet.address]);
      const listed = await wallet.sendTransaction({ ...base, type: 1, gasPrice: GAS_PRICE, accessList: [] });
      assert.equal((await mined(listed)).status, 1);
      assert.equal(await provider.getBalance(to), 14n);
    });

    await check("ethers: refusals have the words that libraries look for", async () => {
      const to = freshAddress();
      const base = { to, gasLimit: 21_000n, gasPrice: GAS_PRICE };
      const poor = new Wallet(`0x${"78".repeat(32)}`, provider);
      assert.equal((await refused(poor.sendTransaction({ ...base, value: 1n, nonce: 0 }))).code, "INSUFFICIENT_FUNDS");
      const rich = await refused(wallet.sendTransaction({ ...base, value: 10n ** 30n }));
      assert.equal(rich.code, "INSUFFICIENT_FUNDS");
      const cheap = await refused(wallet.sendTransaction({ ...base, gasPrice: GAS_PRICE - 1n, value: 1n }));
      assert.match(JSON.stringify(cheap.error ?? cheap.info), /at least 4000000000000 TFuelWei/);
      const foreign = await new Wallet(accounts[2].privateKey).signTransaction({ ...base, value: 1n, chainId: 361, nonce: 0 });
      const { error } = await ask(ethRpc, "eth_sendRawTransaction", [foreign]);
      assert.equal(error?.code, -32000);
      const broken = Transaction.from(await wallet.signTransaction({ ...base, value: 1n, chainId: ethChainId, nonce: 0 }));
      assert((await ask(ethRpc, "eth_sendRawTransaction", [broken.serialized.slice(0, -2)])).error);
    });
  }

  async function contract() {
    let compiled;
    await check("ethers: solc compiles the contract", async () => {
      compiled = compile();
    });
    if (!compiled) return;
    const factory = new ContractFactory(compiled.abi, compiled.bytecode, wallet);

    const counter = await check("ethers: deploy, code, first call", async () => {
      const instance = await factory.deploy(40n);
      const sent = instance.deploymentTransaction();
      const receipt = await mined(sent);
      assert.equal(receipt.status, 1);
      assert.equal(receipt.to, null);
      assert.equal(receipt.contractAddress, getCreateAddress(sent));
      assert.equal(receipt.contractAddress, await instance.getAddress());
      assert.equal(await provider.getCode(receipt.contractAddress), compiled.deployed);
      assert.equal(await instance.count(), 40n);
      assert.equal(BigInt(await provider.getStorage(receipt.contractAddress, 0)), 40n);
      assert.equal(await instance.sum(100n), 5050n);
      assert.equal((await provider.getTransaction(sent.hash)).to, null);
      return instance;
    });

    await check("ethers: estimateGas is enough, and not more than is needed", async () => {
      assert.equal(await provider.estimateGas({ from: wallet.address, to: ZeroAddress, value: 1n }), 21_000n);
      const estimate = await counter.increase.estimateGas(1n);
      const receipt = await mined(await counter.increase(1n, { gasLimit: estimate }));
      assert.equal(receipt.status, 1);
      assert.equal(receipt.gasUsed, estimate);
      assert.equal(await counter.count(), 41n);
    });

    const increased = await check("ethers: a call changes the state and writes an event", async () => {
      assert.equal(await counter.increase.staticCall(2n), 43n);
      const receipt = await mined(await counter.increase(2n));
      assert.equal(receipt.status, 1);
      assert.equal(await counter.count(), 43n);
      assert.equal(await counter.history(43n), BigInt(receipt.blockNumber));
      assert.equal(receipt.logs.length, 1);
      const [log] = receipt.logs;
      assert.equal(log.eventName, "Increased");
      assert.deepEqual([...log.args], [wallet.address, 2n, 43n]);
      assert.equal(log.transactionHash, receipt.hash);
      assert.equal(log.blockHash, receipt.blockHash);
      assert.notEqual(BigInt(receipt.logsBloom), 0n);
      return receipt;
    });

    await check("ethers: queryFilter finds the event by its topics, and nothing else", async () => {
      const height = increased.blockNumber;
      const find = (filter, from = 0, to = "latest") => counter.queryFilter(filter, from, to);
      const all = await find(counter.filters.Increased());
      assert.deepEqual(all.map(({ args }) => args.count), [41n, 43n]);
      const one = await find(counter.filters.Increased(null, 2n));
      assert.equal(one.length, 1);
      assert.equal(one[0].transactionHash, increased.hash);
      assert.equal(one[0].index, increased.logs[0].index);
      assert.equal((await find(counter.filters.Increased(wallet.address), height, height)).length, 1);
      assert.equal((await find(counter.filters.Increased(second.address))).length, 0);
      assert.equal((await find(counter.filters.Increased(), height + 1)).length, 0);
      const byBlock = await provider.getLogs({ blockHash: increased.blockHash, address: await counter.getAddress() });
      assert.equal(byBlock.length, 1);
    });

    await check("ethers: reverts say why: text, custom error, in estimateGas, and in a settled transaction", async () => {
      const text = await refused(counter.increase.staticCall(0n));
      assert.equal(text.code, "CALL_EXCEPTION");
      assert.equal(text.reason, "step is zero");
      const custom = await refused(counter.increase.staticCall(5000n));
      assert.equal(custom.revert?.name, "TooLarge");
      assert.deepEqual([...custom.revert.args], [5000n]);
      const estimate = await refused(counter.increase.estimateGas(0n));
      assert.equal(estimate.code, "CALL_EXCEPTION");
      assert.equal(estimate.reason, "step is zero");
      const before = await provider.getBalance(wallet.address);
      const sent = await counter.increase(0n, { gasLimit: 100_000n });
      const failed = await refused(mined(sent));
      assert.equal(failed.code, "CALL_EXCEPTION");
      assert.equal(failed.receipt.status, 0);
      assert.deepEqual(failed.receipt.logs, []);
      assert(failed.receipt.gasUsed > 21_000n && failed.receipt.gasUsed < 100_000n);
      assert.equal(before - (await provider.getBalance(wallet.address)), failed.receipt.gasUsed * GAS_PRICE);
      assert.equal(await counter.count(), 43n);
    });

    await check("ethers: value goes to the contract, and both sides of the node see it", async () => {
      const address = await counter.getAddress();
      const receipt = await mined(await counter.connect(second).increase(3n, { value: 9n }));
      assert.equal(receipt.status, 1);
      assert.equal(await provider.getBalance(address), 9n);
      assert.equal((await account(thetaRpc, address)).tfuel, 9n);
      const { code } = await call(thetaRpc, "theta.GetCode", { address });
      assert.equal(`0x${code}`, compiled.deployed);
      const native = await call(thetaRpc, "theta.GetTransaction", { hash: receipt.hash });
      assert.equal(native.receipt.GasUsed, Number(receipt.gasUsed));
      assert.equal(native.receipt.EvmErr, "");
      assert.equal(native.receipt.Logs[0].address, address.toLowerCase());
      assert.equal(Buffer.from(native.receipt.Logs[0].data, "base64").toString("hex"), receipt.logs[0].data.slice(2));
    });

    await check("ethers: a state of the past stays readable", async () => {
      const blockTag = increased.blockNumber - 1;
      assert.equal(await counter.count({ blockTag }), 41n);
      assert.equal(await counter.count({ blockTag: increased.blockNumber }), 43n);
      await until("count is 46", async () => (await counter.count()) === 46n);
    });

    await check("ethers: over a WebSocket, heads and events are pushed", async () => {
      const pushed = new WebSocketProvider(ethWs);
      try {
        const heads = [];
        await pushed.on("block", (number) => heads.push(number));
        const listening = new Contract(await counter.getAddress(), counter.interface, pushed);
        const events = [];
        await listening.on("*", (event) => events.push(event.log.transactionHash));
        await until("two heads", () => heads.length >= 2);
        assert.deepEqual(heads, heads.map((_, index) => heads[0] + index));
        const sent = await counter.increase(1n, { gasPrice: GAS_PRICE });
        await mined(sent);
        await until("the event", () => events.length > 0);
        assert.deepEqual(events, [sent.hash]);
        assert.equal(await pushed.getBalance(freshAddress()), 0n);
      } finally {
        await pushed.destroy();
      }
    });
  }
}
