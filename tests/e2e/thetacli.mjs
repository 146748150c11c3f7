// thetacli as a person or a script uses it.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";

import { THETACLI, account, check, run, tempDir } from "./harness.mjs";
import { WHOLE, freshAddress } from "./native.mjs";

const PASSWORD = "correct horse";

export async function thetacli({ thetaRpc, accounts, genesisHash }) {
  const config = tempDir("thetacli");
  const cli = (args, input = "", rpc = thetaRpc) =>
    run(THETACLI, ["--config", config, "--rpc", rpc, "--json", ...args], {
      input,
      env: { THETA_LIGHT_KEYSTORE: "1" },
    });
  /** Exactly one JSON value on stdout. */
  const json = async (args, input) => {
    const { code, stdout, stderr } = await cli(args, input);
    assert.equal(code, 0, stderr);
    assert.equal(stdout.trim().split("\n").length, 1, stdout);
    return JSON.parse(stdout);
  };
  const fails = async (code, words, args, input, rpc) => {
    const { code: got, stdout, stderr } = await cli(args, input, rpc);
    assert.equal(got, code, `exit ${got}: ${stderr}`);
    assert.equal(stdout, "");
    assert.match(stderr, words);
  };
  const { address, privateKey } = accounts[5];

  await check("thetacli: key import, new, list, delete", async () => {
    const imported = await json(["key", "import"], `${privateKey}\n${PASSWORD}\n`);
    assert.equal(imported.address, address);
    const fresh = await json(["key", "new"], `${PASSWORD}\n`);
    assert.notEqual(fresh.address, address);
    const listed = async () => (await json(["key", "list"])).addresses.sort();
    assert.deepEqual(await listed(), [address, fresh.address].sort());
    assert.equal(readdirSync(`${config}/keys/encrypted`).length, 2);
    await fails(1, /nothing was deleted/, ["key", "delete", fresh.address], "no\n");
    assert.equal((await listed()).length, 2);
    await json(["key", "delete", fresh.address, "--yes"]);
    assert.deepEqual(await listed(), [address]);
    await fails(1, /key/i, ["key", "delete", fresh.address, "--yes"]);
    await fails(1, /private key/, ["key", "import"], `0x1234\n${PASSWORD}\n`);
    assert.deepEqual(await listed(), [address]);
  });

  const sent = await check("thetacli: tx send of both tokens", async () => {
    const to = freshAddress();
    const before = await account(thetaRpc, address);
    const args = ["tx", "send", "--from", address, "--to", to, "--theta", "1.5", "--tfuel", "20000000000000000001wei"];
    const result = await json(args, `${PASSWORD}\n`);
    assert.match(result.hash, /^0x[0-9a-f]{64}$/);
    const after = await account(thetaRpc, address);
    assert.deepEqual(await account(thetaRpc, to), { theta: (3n * WHOLE) / 2n, tfuel: 20n * WHOLE + 1n, sequence: 0 });
    assert.equal(before.theta - after.theta, (3n * WHOLE) / 2n);
    assert.equal(before.tfuel - after.tfuel, 20n * WHOLE + 1n + (3n * WHOLE) / 10n);
    return { ...result, to };
  });

  await check("thetacli: query account, block, tx, status, version", async () => {
    const found = await json(["query", "tx", "--hash", sent.hash]);
    assert.equal(found.status, "finalized");
    assert.equal(found.transaction.outputs[0].coins.thetawei, "1500000000000000000");
    const block = await json(["query", "block", "--height", found.block_height]);
    assert.equal(block.hash, found.block_hash);
    assert.deepEqual(await json(["query", "block", "--hash", found.block_hash]), block);
    const owner = await json(["query", "account", "--address", sent.to.slice(2)]);
    assert.deepEqual(owner.coins, { thetawei: "1500000000000000000", tfuelwei: "20000000000000000001" });
    const status = await json(["query", "status"]);
    assert.equal(status.chain_id, "privatenet");
    assert.equal(status.genesis_block_hash, genesisHash);
    assert(Number(status.latest_finalized_block_height) >= Number(found.block_height));
    assert.match((await json(["query", "version"])).version, /^\d+\.\d+\.\d+/);
  });

  await check("thetacli: work that fails exits 1 and says why", async () => {
    const send = (more) => ["tx", "send", "--from", address, "--to", freshAddress(), ...more];
    await fails(1, /Insufficient fund: balance is/, send(["--theta", "900000000"]), `${PASSWORD}\n`);
    await fails(1, /password/i, send(["--theta", "1"]), "wrong\n");
    await fails(1, /ValidateInputAdvanced: Got 1, expected 2/, send(["--theta", "1", "--seq", "1"]), `${PASSWORD}\n`);
    await fails(1, /Insufficient fee/, send(["--theta", "1", "--fee", "0.1"]), `${PASSWORD}\n`);
    await fails(1, /not found|known/i, ["query", "tx", "--hash", `0x${"34".repeat(32)}`]);
    await fails(1, /is not found/, ["query", "account", "--address", freshAddress()]);
    await fails(1, /height/, ["query", "block", "--height", "999999999"]);
    await fails(1, /127\.0\.0\.1:1/, ["query", "status"], "", "http://127.0.0.1:1/rpc");
  });

  await check("thetacli: wrong usage exits 2", async () => {
    await fails(2, /--to/, ["tx", "send", "--from", address, "--theta", "1"]);
    await fails(2, /invalid value/, ["tx", "send", "--from", address, "--to", address, "--theta", "much"]);
    await fails(2, /-1|invalid value/, ["query", "block", "--height", "-1"]);
    await fails(2, /invalid value/, ["query", "block", "--height", "0x5"]);
    await fails(2, /nonsense/, ["nonsense"]);
    await fails(2, /--hash|--height/, ["query", "block"]);
  });

  await check("thetacli: a malformed address or hash is wrong usage", async () => {
    await fails(2, /address/, ["query", "account", "--address", "0x12"]);
    await fails(2, /address/, ["tx", "send", "--from", address, "--to", "somebody", "--theta", "1"]);
    await fails(2, /hash/, ["query", "block", "--hash", "0x12"]);
  });
}
