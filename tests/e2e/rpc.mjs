// What a node answers to requests that are wrong, and that it goes on afterwards.

import assert from "node:assert/strict";

import { account, ask, check, moreBlocks, post } from "./harness.mjs";
import { FEE, WHOLE, errors, freshAddress, signedSend } from "./native.mjs";

const JSON_TYPE = { "content-type": "application/json" };

export async function rpc({ thetaRpc, ethRpc, accounts, nodes }) {
  const [key, other] = [accounts[6].privateKey, accounts[7].privateKey];
  const from = accounts[6].address;
  const answer = async (url, body) => {
    const { status, text } = await post(url, body);
    assert.equal(status, 200, text);
    return JSON.parse(text);
  };
  const code = async (url, body, expected, words = /./) => {
    const got = await answer(url, body);
    assert.equal(got.error?.code, expected, `${JSON.stringify(body).slice(0, 100)}: ${JSON.stringify(got).slice(0, 300)}`);
    assert.match(got.error.message, words);
    return got;
  };
  const request = (method, params, more = {}) => ({ jsonrpc: "2.0", id: 1, method, params, ...more });
  /** The refusal of a raw transaction, the same by both methods. */
  const refusal = async (raw) => {
    const texts = [];
    for (const method of ["theta.BroadcastRawTransaction", "theta.BroadcastRawTransactionAsync"]) {
      const { error } = await ask(thetaRpc, method, { tx_bytes: raw });
      assert(error, `${method} took it`);
      assert.equal(error.code, -32000, error.message);
      texts.push(error.message);
    }
    assert.equal(texts[0], texts[1]);
    return texts[0];
  };

  await check("rpc: malformed JSON is -32700 on both servers", async () => {
    for (const url of [thetaRpc, ethRpc]) {
      for (const body of ["", "{", "nonsense", '{"jsonrpc":"2.0",', "\u0000\u00ff", "[".repeat(200_000)]) {
        const got = await code(url, body, -32700);
        assert.equal(got.id, null);
      }
    }
  });

  await check("rpc: requests that are none are -32600 with id null", async () => {
    const bad = [
      "5", '"text"', "null", "{}",
      { jsonrpc: "1.0", id: 1, method: "theta.GetStatus" },
      { jsonrpc: "2.0", id: 1, method: "theta.GetStatus", extra: 1 },
      { jsonrpc: "2.0", id: {}, method: "theta.GetStatus" },
      { jsonrpc: "2.0", id: 1, method: 5 },
      { jsonrpc: "2.0", id: 1, method: "theta.GetStatus", params: null },
      { jsonrpc: "2.0", id: 1, method: "theta.GetStatus", params: "x" },
      [],
    ];
    for (const body of bad) {
      const got = await code(thetaRpc, body, -32600);
      assert.equal(got.id, null);
    }
    const ok = await answer(thetaRpc, '{"jsonrpc":"2.0","id":1.5,"method":"theta.GetStatus"} trailing');
    assert.equal(ok.id, 1.5);
    assert(ok.result);
  });

  await check("rpc: unknown methods are -32601 in the reference's words", async () => {
    await code(thetaRpc, request("theta.Nonsense"), -32601, /^rpc: can't find method theta\.Nonsense$/);
    await code(thetaRpc, request("theta.getStatus"), -32601, /^rpc: can't find method theta\.getStatus$/);
    await code(thetaRpc, request("other.GetStatus"), -32601, /^rpc: can't find service other/);
    await code(thetaRpc, request("GetStatus"), -32601, /^rpc: service\/method request ill-formed: GetStatus$/);
    await code(ethRpc, request("eth_nonsense", []), -32601, /^the method eth_nonsense does not exist\/is not available$/);
  });

  await check("rpc: parameters of wrong types are -32602", async () => {
    const bad = [
      ["theta.GetAccount", { address: 5 }],
      ["theta.GetAccount", ["0"]],
      ["theta.GetAccount", { address: from, preview: "yes" }],
      ["theta.GetAccount", { address: from, height: "0x5" }],
      ["theta.GetAccount", { address: from, height: "-1" }],
      ["theta.GetAccount", { address: from, height: "" }],
      ["theta.GetBlockByHeight", { height: {} }],
      ["theta.GetBlockByHeight", { height: "99999999999999999999999" }],
      ["theta.GetBlock", { hash: "0x12" }],
      ["theta.BroadcastRawTransaction", { tx_bytes: 7 }],
      ["theta.BroadcastRawTransactionAsync", { tx_bytes: "0xzz" }],
    ];
    for (const [method, params] of bad) await code(thetaRpc, request(method, params), -32602);
    for (const [method, params] of [
      ["eth_getBalance", []],
      ["eth_getBalance", ["0x12", "latest"]],
      ["eth_getBalance", [from, "newest"]],
      ["eth_getBalance", { address: from }],
      ["eth_getBlockByNumber", [{}]],
      ["eth_call", ["0x"]],
      ["eth_sendRawTransaction", [5]],
      ["eth_getTransactionByHash", ["0x1234"]],
      ["eth_getLogs", [{ topics: "0x12" }]],
    ]) {
      await code(ethRpc, request(method, params), -32602);
    }
    await code(thetaRpc, request("theta.GetAccount", {}), -32000, /^Address must be specified$/);
    await code(thetaRpc, request("theta.GetBlock", {}), -32000, /^Block hash must be specified$/);
  });

  await check("rpc: arguments alone or in an array, names in any case, unknown ones ignored", async () => {
    for (const params of [{ address: from }, [{ address: from }, 7], { ADDRESS: from.slice(2), nonsense: 1 }]) {
      assert.equal((await answer(thetaRpc, request("theta.GetAccount", params))).result.sequence, "0");
    }
    assert((await answer(thetaRpc, request("theta.GetStatus", []))).result);
  });

  await check("rpc: verbs, content types, paths and headers", async () => {
    const status = async (url, method, headers, body) => (await post(url, body, headers, method)).status;
    assert.equal(await status(thetaRpc, "GET"), 405);
    assert.equal(await status(thetaRpc, "PUT", JSON_TYPE, "{}"), 405);
    assert.equal(await status(thetaRpc, "DELETE"), 405);
    assert.equal(await status(thetaRpc, "OPTIONS"), 200);
    const good = request("theta.GetStatus", {});
    assert.equal(await status(thetaRpc, "POST", { "content-type": "text/plain" }, good), 415);
    assert.equal(await status(thetaRpc, "POST", { "content-type": "application/xml" }, good), 415);
    assert.equal(await status(thetaRpc, "POST", { "content-type": "application/jsonp" }, good), 415);
    assert.equal(await status(thetaRpc, "POST", { "content-type": "application/json; charset=utf-8" }, good), 200);
    assert.equal(await status(`${thetaRpc}/`, "POST", JSON_TYPE, good), 404);
    assert.equal(await status(ethRpc, "GET"), 200);
    assert.equal(await status(ethRpc, "POST", { "content-type": "text/plain" }, request("eth_chainId", [])), 415);
    const { headers, status: ok } = await post(thetaRpc, good);
    assert.equal(ok, 200);
    assert.equal(headers.get("access-control-allow-origin"), "*");
    assert.match(headers.get("content-type"), /^application\/json/);
    const page = await post(new URL("/", thetaRpc), undefined, {}, "GET");
    assert.deepEqual([page.status, page.text], [200, "Theta Node is up and running!"]);
    assert.equal(await status(thetaRpc, "POST", JSON_TYPE, " ".repeat(5 * 1024 * 1024)), 413);
  });

  await check("rpc: batches and notifications", async () => {
    const got = await answer(thetaRpc, [
      request("theta.GetStatus", {}, { id: "a" }),
      5,
      { jsonrpc: "2.0", method: "theta.GetStatus" },
      request("theta.Nonsense", {}, { id: 7 }),
      request("theta.GetVersion", {}, { id: null }),
    ]);
    assert.equal(got.length, 4);
    const by = (id) => got.filter((entry) => entry.id === id);
    assert.equal(by("a")[0].result.chain_id, "privatenet");
    assert.equal(by(7)[0].error.code, -32601);
    assert.deepEqual(by(null).map((entry) => entry.error?.code).sort(), [-32600, undefined]);
    for (const body of [
      { jsonrpc: "2.0", method: "theta.GetStatus" },
      { jsonrpc: "2.0", method: "theta.Nonsense" },
      [{ jsonrpc: "2.0", method: "theta.GetStatus" }],
    ]) {
      const { status, text } = await post(thetaRpc, body);
      assert.deepEqual([status, text], [204, ""], JSON.stringify(body));
    }
    const many = (count) => Array.from({ length: count }, (_, id) => request("eth_chainId", [], { id }));
    const chains = await answer(ethRpc, many(100));
    assert.deepEqual(chains.map(({ result }) => result), Array(100).fill("0x16e"));
    await code(ethRpc, many(1_000), -32600, /at most/);
    await code(ethRpc, [], -32600, /empty batch/);
  });

  await check("rpc: bytes that are no transaction are refused, also with bytes behind one", async () => {
    const good = signedSend(key, 1, freshAddress(), { tfuel: WHOLE });
    for (const raw of ["", "00", "02", "ff".repeat(100), "0c".repeat(3), good.slice(2), good.slice(0, -2)]) {
      await refusal(raw);
    }
    assert.match(await refusal(`${good}00`), /1 bytes behind the end of the transaction/);
    assert.match(await refusal(good + good), /bytes behind the end of the transaction/);
    await refusal(`${good}${"00".repeat(600_000)}`);
    assert.equal((await account(thetaRpc, from)).sequence, 0);
  });

  await check("rpc: wrong signatures", async () => {
    const to = freshAddress();
    const good = signedSend(key, 1, to, { tfuel: WHOLE });
    // Somebody else's signature under the same content.
    const foreign = signedSend(other, 1, to, { tfuel: WHOLE });
    const forged = foreign.replace(accounts[7].address.slice(2).toLowerCase(), from.slice(2).toLowerCase());
    assert.notEqual(forged, foreign);
    assert.match(await refusal(forged), /^Signature verification failed/);
    // Another chain's.
    assert.match(await refusal(signedSend(key, 1, to, { tfuel: WHOLE, chain: "mainnet" })), /^Signature verification failed/);
    // Another receiver under the right signature.
    const bent = good.replace(to.slice(2).toLowerCase(), "ab".repeat(20));
    assert.notEqual(bent, good);
    assert.match(await refusal(bent), /^Signature verification failed/);
  });

  await check("rpc: wrong sequence, too little balance, too low a fee, no account", async () => {
    const to = freshAddress();
    const first = signedSend(other, 1, to, { tfuel: 2n });
    assert((await ask(thetaRpc, "theta.BroadcastRawTransaction", { tx_bytes: first })).result);
    const stale = await refusal(signedSend(other, 1, to, { tfuel: 3n }));
    assert.equal(stale, "ValidateInputAdvanced: Got 1, expected 2. (acc.seq=1)");
    await refusal(signedSend(key, 1_000, to, { tfuel: 1n }));
    const { theta, tfuel } = await account(thetaRpc, from);
    const poor = await refusal(signedSend(key, 1, to, { theta: theta + 1n }));
    assert.equal(
      poor,
      `Insufficient fund: balance is ${theta} ThetaWei, ${tfuel} TFuelWei, ` +
        `tried to send ${theta + 1n} ThetaWei, ${FEE} TFuelWei`,
    );
    assert.match(errors.humanizeErrorMessage(poor), /^Insufficient funds\. You only have 100000000 THETA/);
    assert.match(await refusal(signedSend(key, 1, to, { tfuel })), /^Insufficient fund: balance is/);
    assert.match(
      await refusal(signedSend(key, 1, to, { tfuel: 1n, fee: FEE - 1n })),
      /^Insufficient fee\. Transaction fee needs to be at least 300000000000000000 TFuelWei$/,
    );
    assert.match(
      await refusal(signedSend(`0x${"77".repeat(32)}`, 1, to, { tfuel: 1n })),
      /^Failed to get the account \(the address has no Theta nor TFuel\)/,
    );
    assert.equal((await account(thetaRpc, from)).sequence, 0);
  });

  await check("rpc: a settled transaction sent again is already seen", async () => {
    const raw = signedSend(key, 1, freshAddress(), { theta: 1n, tfuel: 1n });
    const first = await ask(thetaRpc, "theta.BroadcastRawTransaction", { tx_bytes: `0x${raw}` });
    assert(first.result, JSON.stringify(first.error));
    assert.equal(await refusal(raw), "Transaction already seen");
    assert.equal((await account(thetaRpc, from)).sequence, 1);
  });

  await check("rpc: a gap waits until it is filled, and both settle in order", async () => {
    const to = freshAddress();
    const [second, third] = [2, 3].map((sequence) => signedSend(key, sequence, to, { tfuel: WHOLE }));
    const late = ask(thetaRpc, "theta.BroadcastRawTransaction", { tx_bytes: third });
    await moreBlocks(thetaRpc, 1);
    assert.equal((await account(thetaRpc, from)).sequence, 1);
    const early = ask(nodes.at(-1).thetaRpc, "theta.BroadcastRawTransaction", { tx_bytes: second });
    for (const { result, error } of await Promise.all([early, late])) assert(result, JSON.stringify(error));
    assert.equal((await account(thetaRpc, to)).tfuel, 2n * WHOLE);
  });

  await check("rpc: after all that, every node goes on and agrees", async () => {
    await Promise.all(nodes.map((node) => moreBlocks(node.thetaRpc, 2)));
    const heights = await Promise.all(nodes.map(async ({ thetaRpc: url }) => (await ask(url, "theta.GetStatus")).result));
    const height = String(Math.min(...heights.map((status) => Number(status.latest_finalized_block_height))));
    const hashes = await Promise.all(
      nodes.map(async ({ thetaRpc: url }) => (await ask(url, "theta.GetBlockByHeight", { height })).result.hash),
    );
    assert.equal(new Set(hashes).size, 1, hashes.join(" "));
  });
}
