// kill -9 under load: what a node reported as settled stays, and the network goes on.

import assert from "node:assert/strict";
import { keccak256 } from "ethers";

import {
  THETA, account, ask, call, callMany, check, moreBlocks, settledHeight, start, startDevnet, tempDir, until, within,
} from "./harness.mjs";
import { WHOLE, freshAddress, signedSend } from "./native.mjs";

const ROUNDS = 3;
const SENDERS = 4;
/** Transfers that each sender has under way. */
const WINDOW = 6;

/** Sends transfers from several accounts through all nodes until the nodes are gone. */
function stream({ nodes, accounts }, sequences, target) {
  const settled = [];
  const state = { settled, underway: 0, seen: 0, refusals: [], stopped: false };
  const send = async (sender, sequence) => {
    const raw = signedSend(accounts[sender].privateKey, sequence, target, { tfuel: WHOLE });
    const node = nodes[(sender + sequence) % nodes.length];
    state.underway += 1;
    try {
      const { result, error } = await ask(node.thetaRpc, "theta.BroadcastRawTransaction", { tx_bytes: raw });
      // What was under way when the nodes were killed outlives them; it goes into a block with what came before it.
      if (error?.message === "Transaction already seen") state.seen += 1;
      else if (error) state.refusals.push(error.message);
      else if (result.hash !== keccak256(`0x${raw}`)) state.refusals.push(`another hash: ${result.hash}`);
      else settled.push({ hash: result.hash, block: result.block });
      state.underway -= 1;
    } catch {
      // The node is gone, and this one stays under way for good.
      state.stopped = true;
    }
  };
  state.done = Promise.all(
    sequences.flatMap((first, sender) =>
      Array.from({ length: WINDOW }, async (_, lane) => {
        for (let at = first + 1 + lane; !state.stopped; at += WINDOW) await send(sender, at);
      }),
    ),
  );
  return state;
}

/** All nodes hold the same chain up to the highest block that all of them have settled. */
async function agree(nodes) {
  const heights = await Promise.all(nodes.map(({ thetaRpc }) => settledHeight(thetaRpc)));
  const height = Math.min(...heights);
  const calls = Array.from({ length: height + 1 }, (_, at) => ["theta.GetBlockByHeight", { height: String(at) }]);
  const chains = await Promise.all(nodes.map(({ thetaRpc }) => callMany(thetaRpc, calls)));
  const line = (block) => `${block.height} ${block.hash} ${block.state_hash} ${block.transactions_hash}`;
  const [first, ...others] = chains.map((chain) => chain.map(line));
  for (const other of others) assert.deepEqual(other, first);
  chains[0].forEach((block, at) => {
    assert.equal(block.height, String(at));
    if (at > 0) assert.equal(block.parent, chains[0][at - 1].hash);
  });
  return chains[0];
}

export async function crash() {
  const folder = tempDir("crash");
  const target = freshAddress();
  const settled = [];
  let net = await check("crash: a network starts", () => startDevnet(folder));
  if (!net) return;

  await check("crash: a second devnet on the same folder ends with 1 within 5 s and names the folder", async () => {
    const second = start(THETA, ["devnet", "--data-dir", folder, "--rpc-port", "0", "--eth-rpc-port", "0", "--gateway-port", "0", "--json"]);
    try {
      const { code } = await within(5_000, "the end of the second devnet", second.ended);
      assert.equal(code, 1, second.stderr);
      assert.equal(second.stdout, "");
      assert(second.stderr.includes(folder), second.stderr);
    } finally {
      second.child.kill("SIGKILL");
    }
    await moreBlocks(net.ready.thetaRpc, 1);
  });

  for (let round = 1; round <= ROUNDS; round += 1) {
    const name = (what) => `crash ${round}: ${what}`;
    const { ready } = net;
    const sequences = await Promise.all(
      ready.accounts.slice(0, SENDERS).map(async ({ address }) => (await account(ready.thetaRpc, address)).sequence),
    );
    const killed = await check(name("kill -9 under a stream of transfers"), async () => {
      const load = stream(ready, sequences, target);
      const wanted = 40 * round;
      await until(`${wanted} settled transfers`, async () => load.settled.length >= wanted || load.refusals.length > 0);
      await net.kill();
      await within(5_000, "the end of the stream", load.done);
      assert.deepEqual(load.refusals, []);
      assert(load.underway > 0, "nothing was under way when the network was killed");
      settled.push(...load.settled);
      return load.settled.length;
    });
    await net.kill();
    const begun = await check(name("devnet goes on in the same folder"), async () => {
      const again = await startDevnet(folder);
      assert.equal(again.ready.genesisHash, ready.genesisHash);
      return again;
    });
    if (!begun) return;
    net = begun;
    const nodes = net.ready.nodes;
    await check(name("blocks grow again on every node"), async () => {
      await Promise.all(nodes.map(({ thetaRpc }) => moreBlocks(thetaRpc, 3)));
    });
    await check(name("all nodes agree on every block and state root"), async () => {
      const chain = await agree(nodes);
      // What the crash left under way may have come in or not; money and sequences have to tell the same.
      const height = String(chain.length - 1);
      let sent = 0;
      for (const { address } of net.ready.accounts.slice(0, SENDERS)) {
        sent += Number((await call(net.ready.thetaRpc, "theta.GetAccount", { address, height })).sequence);
      }
      const got = await call(net.ready.thetaRpc, "theta.GetAccount", { address: target, height });
      assert.equal(BigInt(got.coins.tfuelwei), BigInt(sent) * WHOLE);
      assert(sent >= settled.length);
    });
    await check(name(`everything reported as settled still is (${killed} of this round, ${settled.length} in all)`), async () => {
      const chain = new Map((await agree(nodes)).map((block) => [block.height, block]));
      for (const { thetaRpc } of nodes) {
        const found = await callMany(thetaRpc, settled.map(({ hash }) => ["theta.GetTransaction", { hash }]));
        found.forEach((transaction, index) => {
          const { hash, block } = settled[index];
          assert.equal(transaction.hash, hash);
          assert.equal(transaction.status, "finalized");
          assert.equal(transaction.block_height, String(block.Height));
          const now = chain.get(transaction.block_height);
          assert.equal(transaction.block_hash, now.hash);
          assert.deepEqual([now.parent, now.state_hash, now.transactions_hash], [block.Parent, block.StateHash, block.TxHash]);
        });
      }
      assert(settled.length > 0);
    });
  }

  await check("crash: Ctrl-C ends it with 0 within 5 s", async () => {
    assert.deepEqual(await net.stop(), { code: 0, signal: null });
  });
}
