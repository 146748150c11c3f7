// theta-js as it comes from npm.

import assert from "node:assert/strict";
import { keccak256 } from "ethers";

import { account, check, refused, until } from "./harness.mjs";
import { CHAIN, FEE, WHOLE, Wallet, errors, freshAddress, providers, signedSend, transactions } from "./native.mjs";

export async function thetaJs({ thetaRpc, accounts }) {
  const provider = new providers.HttpProvider(CHAIN, thetaRpc);
  const wallet = new Wallet(accounts[0].privateKey, provider);
  const transfer = (to, theta, tfuel, more = {}) =>
    new transactions.SendTransaction({
      from: wallet.address,
      outputs: [{ address: to, thetaWei: theta.toString(), tfuelWei: tfuel.toString() }],
      ...more,
    });

  await check("theta-js: getAccount gives what the ready line promises", async () => {
    assert.equal(wallet.address, accounts[0].address);
    const found = await provider.getAccount(accounts[1].address);
    assert.deepEqual(found.coins, { thetawei: accounts[1].thetaWei, tfuelwei: accounts[1].tfuelWei });
    assert.equal(found.sequence, "0");
    assert.match((await refused(provider.getAccount(freshAddress()))).message, /^Account with address 0x.* is not found$/);
    assert.equal(await provider.getTransactionCount(freshAddress()), 0);
  });

  await check("theta-js: getBlockNumber grows", async () => {
    const from = await provider.getBlockNumber();
    assert(Number.isInteger(from) && from > 0);
    await until("a higher block", async () => (await provider.getBlockNumber()) > from);
  });

  const sent = await check("theta-js: sendTransaction of both tokens is settled when it answers", async () => {
    const to = freshAddress();
    const before = await account(thetaRpc, wallet.address);
    const result = await wallet.sendTransaction(transfer(to, 7n * WHOLE, 11n * WHOLE + 5n));
    assert.match(result.hash, /^0x[0-9a-f]{64}$/);
    assert.equal(result.block.ChainID, CHAIN);
    const [from, target] = [await account(thetaRpc, wallet.address), await account(thetaRpc, to)];
    assert.deepEqual(target, { theta: 7n * WHOLE, tfuel: 11n * WHOLE + 5n, sequence: 0 });
    assert.equal(before.theta - from.theta, 7n * WHOLE);
    assert.equal(before.tfuel - from.tfuel, 11n * WHOLE + 5n + FEE);
    assert.equal(from.sequence, before.sequence + 1);
    return { ...result, to, sequence: from.sequence };
  });

  await check("theta-js: getTransaction, getBlock and getBlockByHeight find it", async () => {
    const { hash, block, to, sequence } = sent;
    const found = await provider.getTransaction(hash);
    assert.equal(found.status, "finalized");
    assert.equal(found.hash, hash);
    assert.equal(found.type, 2);
    assert.equal(found.block_height, String(block.Height));
    const { fee, inputs, outputs } = found.transaction;
    assert.deepEqual(fee, { thetawei: "0", tfuelwei: FEE.toString() });
    assert.equal(inputs.length, 1);
    assert.equal(inputs[0].address, wallet.address.toLowerCase());
    assert.equal(inputs[0].sequence, String(sequence));
    assert.deepEqual(inputs[0].coins, { thetawei: "7000000000000000000", tfuelwei: "11300000000000000005" });
    assert.deepEqual(outputs, [
      { address: to.toLowerCase(), coins: { thetawei: "7000000000000000000", tfuelwei: "11000000000000000005" } },
    ]);
    const byHash = await provider.getBlock(found.block_hash);
    assert.equal(byHash.hash, found.block_hash);
    assert.equal(byHash.height, found.block_height);
    assert.equal(byHash.state_hash, block.StateHash);
    assert.equal(byHash.transactions_hash, block.TxHash);
    assert([4, 5].includes(byHash.status), `status ${byHash.status}`);
    const inside = byHash.transactions.find((transaction) => transaction.hash === hash);
    assert.deepEqual(inside.raw, found.transaction);
    assert.equal(byHash.transactions[0].type, 0, "the coinbase comes first");
    // The library passes the height on as it is: text as the reference wants it, or a number.
    assert.deepEqual(await provider.getBlockByHeight(found.block_height), byHash);
    assert.deepEqual(await provider.getBlockByHeight(Number(found.block_height)), byHash);
    assert.deepEqual(await provider.getBlockByHeight("999999999"), {});
  });

  await check("theta-js: the hash is that of the signed bytes; Async answers before the block", async () => {
    const { sequence } = await account(thetaRpc, wallet.address);
    const raw = signedSend(accounts[0].privateKey, sequence + 1, freshAddress(), { tfuel: 1n });
    const late = new providers.HttpProvider(CHAIN, thetaRpc);
    late.setBroadcastAsync(true);
    const { hash, block } = await late.sendTransaction(raw);
    assert.equal(hash, keccak256(`0x${raw}`));
    assert.equal(block, undefined);
    await until("it is settled", async () => (await provider.getTransaction(hash)).status === "finalized");
  });

  await check("theta-js: an unknown transaction is not_found, too little money is told in its words", async () => {
    const unknown = await provider.getTransaction(`0x${"12".repeat(32)}`);
    assert.equal(unknown.status, "not_found");
    assert.equal(unknown.transaction, null);
    const error = await refused(wallet.sendTransaction(transfer(freshAddress(), 2n * 10n ** 26n, 0n)));
    assert.match(
      error.message,
      /^Insufficient fund: balance is \d+ ThetaWei, \d+ TFuelWei, tried to send \d+ ThetaWei, \d+ TFuelWei$/,
    );
    assert.match(errors.humanizeErrorMessage(error.message), /You only have \d+ THETA but tried to send 200000000 THETA/);
  });
}
