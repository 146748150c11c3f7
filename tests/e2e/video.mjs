// A clip in a real browser: published through the gateway, played on the page of an edge node that did not have it.
//
// Needs ffmpeg and chromium; without them the part is skipped, and says so. SCREENSHOTS names a folder for pictures of the
// page.

import assert from "node:assert/strict";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { THETA, account, call, check, find, openPage, run, start, startDevnet, tempDir, until } from "./harness.mjs";
import { WHOLE, signedSend } from "./native.mjs";

const SECONDS = 14;

const json = async (url) => (await fetch(url)).json();

export async function video() {
  const [ffmpeg, chromium] = [find(["ffmpeg"]), find(["chromium", "chromium-browser", "google-chrome"])];
  if (!ffmpeg || !chromium) {
    console.log("skipped: needs ffmpeg and chromium");
    return;
  }
  const folder = tempDir("video");
  const net = await startDevnet(join(folder, "net"), ["--validators", "1", "--edge-nodes", "2"]);
  const { gateway, edgeNodes, nodes, accounts } = net.ready;
  const rpc = nodes[0].thetaRpc;

  const manifest = await check("video: a clip is published by edge nodes", async () => {
    const clip = join(folder, "clip.mp4");
    const made = await run(ffmpeg, [
      "-nostdin", "-v", "error", "-f", "lavfi", "-i", `testsrc2=d=${SECONDS}:s=640x360:r=30`,
      "-f", "lavfi", "-i", `sine=frequency=330:d=${SECONDS}`, "-c:v", "libx264", "-preset", "ultrafast",
      "-pix_fmt", "yuv420p", "-c:a", "aac", clip,
    ]);
    assert.equal(made.code, 0, made.stderr);
    await until("two edge nodes", async () => {
      const all = (await json(`${gateway}/api/nodes`)).nodes;
      return all.filter((node) => ["probation", "active"].includes(node.status)).length === 2;
    });
    const args = ["content", "publish", clip, "--title", "A test", "--segment-seconds", "1", "--gateway", gateway, "--json"];
    const published = await run(THETA, args, { ms: 60_000 });
    assert.equal(published.code, 0, published.stdout + published.stderr);
    await Promise.all(edgeNodes.map((node) =>
      until("it is held", async () => (await json(`${node.gateway}/content`)).held === 1)));
    return JSON.parse(published.stdout).manifest;
  }, 90_000);

  const player = await check("video: another edge node joins, with money to pay", async () => {
    const data = join(folder, "player");
    writeFileSync(join(folder, "password"), "secret\n");
    const made = await run(THETA, [
      "edge", "init", "--data-dir", data, "--rpc", rpc, "--gateway", gateway, "--port", "0", "--json",
      "--password-file", join(folder, "password"), "--settle-at-once",
    ]);
    assert.equal(made.code, 0, made.stderr);
    const { address } = JSON.parse(made.stdout);
    const { sequence } = await account(rpc, accounts[0].address);
    const raw = signedSend(accounts[0].privateKey, sequence + 1, address, { tfuel: 100n * WHOLE });
    await call(rpc, "theta.BroadcastRawTransaction", { tx_bytes: raw });
    const config = join(data, "config.toml");
    const text = readFileSync(config, "utf8");
    writeFileSync(config, `content-most-tfuel = "1000"\n${text}`);
    const process = start(THETA, ["edge", "start", "--config", config, "--json"]);
    await until("the ready line", async () => process.stdout.includes("\n"));
    const ready = JSON.parse(process.stdout.split("\n", 1)[0]);
    await until("it knows the others", async () => (await json(`${ready.gateway}/content`)).connected >= 2);
    return { url: ready.gateway, address };
  }, 60_000);

  await check("video: one of the others gives what is wrong from now on", async () => {
    // Its copy goes bad on its disk, which it does not notice.
    const blobs = join(folder, "net", "edge-0", "blobs");
    for (const name of readdirSync(blobs)) {
      const path = join(blobs, name);
      const bytes = readFileSync(path);
      if (bytes.length > 200) bytes[150] ^= 1;
      writeFileSync(path, bytes);
    }
  });

  await openPage(chromium, async ({ page, problems, hosts, shot }) => {
    await page.setViewport({ width: 1280, height: 860 });
    const at = () => page.$eval("video", (video) => video.currentTime);

    await check("video: it plays in a browser, switches quality and seeks", async () => {
      await page.goto(`${player.url}/?manifest=${manifest}`);
      await until("time advances", async () => (await at()) > 2);
      const levels = await page.evaluate(() => window.player.hls.levels.length);
      assert.equal(levels, 3);
      for (const level of [0, 2]) {
        await page.select("#level", String(level));
        await until(`level ${level}`, async () =>
          (await page.evaluate(() => window.player.hls.currentLevel)) === level);
      }
      const size = await page.$eval("video", (video) => [video.videoWidth, video.videoHeight]);
      await page.$eval("video", (video) => (video.currentTime = 9));
      await until("it goes on behind the seek", async () => (await at()) > 10);
      assert.deepEqual(size.length, 2);
      await until("it ends", async () => page.$eval("video", (video) => video.ended), 20_000);
      assert.ok(Math.abs((await page.$eval("video", (video) => video.duration)) - SECONDS) < 0.1);
      assert.deepEqual(await page.evaluate(() => window.player.errors), []);
    }, 60_000);

    await check("video: nothing wrong reached it, and who gave it is banned", async () => {
      const content = await json(`${player.url}/content`);
      assert.equal(content.chunks.refused, 1, JSON.stringify(content));
      const banned = content.peers.filter((peer) => peer.banned).map((peer) => peer.node);
      assert.deepEqual(banned, [edgeNodes[0].address]);
      assert.ok(content.bytes.peers > content.bytes.origin, JSON.stringify(content.bytes));
      assert.equal(content.paid.chunks, content.chunks.verified);
      await until("a payment is on the chain", async () => {
        const { result } = await (await fetch(rpc, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "theta.GetAccount", params: [{ address: player.address }] }),
        })).json();
        return result.reserved_funds.some((fund) => BigInt(fund.used_fund.tfuelwei) > 0n);
      });
    });

    await check("video: the page shows it, on wide and narrow screens, and asks nobody else", async () => {
      await until("blocks are shown", async () => (await page.$$("#blocks tr")).length >= 5);
      await until("peers are shown", async () => (await page.$$("#peers tr")).length >= 2);
      const text = await page.$eval("body", (body) => body.innerText);
      assert.match(text, /From peers/);
      assert.match(text, /banned/);
      await shot("edge-wide");
      await page.setViewport({ width: 390, height: 844, isMobile: true, deviceScaleFactor: 2 });
      // A phone is another page.
      await until("blocks are shown", async () => (await page.$$("#blocks tr")).length >= 5);
      await until("it plays", async () => (await at()) > 0.5);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it does not fit the width");
      await shot("edge-narrow");
      await page.setViewport({ width: 1280, height: 860 });
      await page.goto(`${gateway}/`);
      await until("the clip is listed", async () => (await page.$$("#clips li")).length === 1);
      await page.click("#clips button");
      await until("it plays there too", async () => (await at()) > 1);
      await until("blocks are shown", async () => (await page.$$("#blocks tr")).length >= 5);
      assert.equal((await page.$$("#nodes tr")).length, 3);
      assert.ok((await page.$$("#jobs tr")).length >= 5);
      await shot("gateway-wide");
      assert.deepEqual(problems, []);
      assert.deepEqual([...hosts], ["127.0.0.1"]);
    });
  });
  await check("video: the network ends", async () => {
    assert.deepEqual(await net.stop(), { code: 0, signal: null });
  });
}
