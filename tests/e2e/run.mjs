// End-to-end checks with the clients people use. Needs THETA and THETACLI, the paths of the two programs.
//
// `node run.mjs [part…]` runs some parts only. The last line is `N passed, M failed`.

import assert from "node:assert/strict";

import { crash } from "./crash.mjs";
import { ethers } from "./ethers.mjs";
import { check, finish, startDevnet, tempDir, watchdog } from "./harness.mjs";
import { offline } from "./offline.mjs";
import { openai } from "./openai.mjs";
import { rpc } from "./rpc.mjs";
import { thetaJs } from "./theta-js.mjs";
import { thetacli } from "./thetacli.mjs";
import { video } from "./video.mjs";

/** Parts that share one network; each has accounts of its own. */
const SHARED = { "theta-js": thetaJs, ethers, thetacli, rpc };
const ALONE = { crash, offline, video, openai };

const all = { ...SHARED, ...ALONE };
const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(all);
const unknown = wanted.filter((part) => !all[part]);
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(", ")}; parts are ${Object.keys(all).join(", ")}`);
  process.exit(2);
}

watchdog(480_000);

if (wanted.some((part) => SHARED[part])) {
  const net = await check("devnet: the ready line", async () => {
    const started = await startDevnet(tempDir("devnet"));
    const { ready } = started;
    assert.equal(ready.chain, "privatenet");
    assert.equal(ready.ethChainId, 366);
    assert.match(ready.genesisHash, /^0x[0-9a-f]{64}$/);
    assert.equal(ready.accounts.length, 10);
    assert.equal(ready.nodes.length, 4);
    assert.equal(new Set(ready.nodes.flatMap((node) => [node.thetaRpc, node.ethRpc])).size, 8);
    return started;
  });
  if (net) {
    for (const part of wanted.filter((part) => SHARED[part])) await SHARED[part](net.ready);
    await check("devnet: Ctrl-C ends it with 0 within 5 s", async () => {
      assert.deepEqual(await net.stop(), { code: 0, signal: null });
      assert.equal(net.process.stdout.trim().split("\n").length, 1, "one line on stdout and nothing else");
    });
  }
}
for (const part of wanted.filter((part) => ALONE[part])) await ALONE[part]();

finish();
