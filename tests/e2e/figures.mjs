// Figures of delivery and inference on one machine: `THETA=… node figures.mjs [MiB]`, with a release build. Prints one JSON
// line. Ratios are to a plain copy over loopback HTTP by this same client, in the same run.

import { createServer } from "node:http";
import { join } from "node:path";
import { randomBytes } from "node:crypto";
import { writeFileSync, readFileSync } from "node:fs";

import { THETA, account, call, find, post, run, start, startDevnet, tempDir, until } from "./harness.mjs";
import { WHOLE, signedSend } from "./native.mjs";

const json = async (url) => (await fetch(url)).json();
const median = (all) => all.toSorted((a, b) => a - b)[all.length >> 1];
const quantile = (all, share) => all.toSorted((a, b) => a - b)[Math.min(all.length - 1, Math.floor(all.length * share))];

/** Bytes and seconds of fetching all of it. */
async function fetchAll(urls, lanes = 1) {
  const begin = performance.now();
  let bytes = 0;
  const queue = [...urls];
  await Promise.all(Array.from({ length: lanes }, async () => {
    for (let url; (url = queue.shift());) {
      const answer = await fetch(url);
      if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
      bytes += (await answer.arrayBuffer()).byteLength;
    }
  }));
  return { bytes, seconds: (performance.now() - begin) / 1000 };
}
const rate = ({ bytes, seconds }) => Number((bytes / seconds / 1e6).toFixed(1));

const folder = tempDir("figures");
const net = await startDevnet(join(folder, "net"), ["--validators", "1", "--edge-nodes", "2"]);
const { gateway, nodes, accounts } = net.ready;
const rpc = nodes[0].thetaRpc;
const figures = {};

// Inference: what a request costs beside the model.
await until("a model", async () => (await json(`${gateway}/v1/models`)).data.length > 0);
const ask = { model: "theta-tiny", messages: [{ role: "user", content: "hi" }], max_tokens: 1, temperature: 0 };
const chat = async (more) => {
  const begin = performance.now();
  const { status, text } = await post(`${gateway}/v1/chat/completions`, { ...ask, ...more });
  if (status !== 200) throw new Error(text);
  return [performance.now() - begin, JSON.parse(text).usage];
};
for (let i = 0; i < 5; i += 1) await chat();
const ones = [];
for (let i = 0; i < 100; i += 1) ones.push((await chat())[0]);
figures.requestMs = { p50: median(ones).toFixed(1), p99: quantile(ones, 0.99).toFixed(1), requests: ones.length };
const [long, usage] = await chat({ max_tokens: 400, temperature: 2, seed: 1 });
figures.tokensPerSecond = (usage.completion_tokens / ((long - median(ones)) / 1000)).toFixed(0);
const begin = performance.now();
await Promise.all(Array.from({ length: 200 }, () => chat()));
figures.requestsPerSecond = (200 / ((performance.now() - begin) / 1000)).toFixed(1);

// Delivery: noise does not compress, so the pictures as they came are large.
const ffmpeg = find(["ffmpeg"]);
const clip = join(folder, "clip.mp4");
const made = await run(ffmpeg, [
  "-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=d=40:s=1280x720:r=30", "-vf", "noise=alls=60:allf=t",
  "-c:v", "libx264", "-preset", "ultrafast", "-b:v", "24M", "-maxrate", "24M", "-bufsize", "24M", "-g", "60",
  "-pix_fmt", "yuv420p", clip,
], { ms: 120_000 });
if (made.code !== 0) throw new Error(made.stderr);
const published = await run(THETA, ["content", "publish", clip, "--ladder", "source", "--gateway", gateway, "--json"], { ms: 300_000 });
if (published.code !== 0) throw new Error(published.stdout + published.stderr);
const { manifest } = JSON.parse(published.stdout);
await Promise.all(net.ready.edgeNodes.map((node) => until("held", async () => (await json(`${node.gateway}/content`)).held === 1, 60_000)));
writeFileSync(join(folder, "password"), "secret\n");
const data = join(folder, "player");
const inited = await run(THETA, ["edge", "init", "--data-dir", data, "--rpc", rpc, "--gateway", gateway, "--port", "0", "--json",
  "--password-file", join(folder, "password")]);
const { address } = JSON.parse(inited.stdout);
const { sequence } = await account(rpc, accounts[0].address);
await call(rpc, "theta.BroadcastRawTransaction", { tx_bytes: signedSend(accounts[0].privateKey, sequence + 1, address, { tfuel: 2000n * WHOLE }) });
const config = join(data, "config.toml");
writeFileSync(config, `content-most-tfuel = "1000"\ncontent-fund-tfuel = "500"\n${readFileSync(config, "utf8")}`);
const process_ = start(THETA, ["edge", "start", "--config", config, "--json"]);
await until("the ready line", async () => process_.stdout.includes("\n"));
const player = JSON.parse(process_.stdout.split("\n", 1)[0]).gateway;
await until("it knows the others", async () => (await json(`${player}/content`)).connected >= 2);
const playlist = await (await fetch(`${player}/hls/${manifest}/source/index.m3u8`)).text();
const segments = playlist.split("\n").filter((line) => line.endsWith(".ts"));
const urls = segments.map((name) => `${player}/hls/${manifest}/source/${name}`);
const cold = await fetchAll(urls);
const content = await json(`${player}/content`);
const warm = await fetchAll(urls);
const warm8 = await fetchAll(Array.from({ length: 8 }, () => urls).flat(), 8);

// The same bytes from a plain server, in pieces of the same size.
const size = Math.round(cold.bytes / segments.length);
const piece = randomBytes(size);
const plain = createServer((_, answer) => answer.end(piece)).listen(0, "127.0.0.1");
await new Promise((done) => plain.once("listening", done));
const copies = segments.map(() => `http://127.0.0.1:${plain.address().port}/`);
await fetchAll(copies);
const copy = await fetchAll(copies);
const copy8 = await fetchAll(Array.from({ length: 8 }, () => copies).flat(), 8);
figures.delivery = {
  segments: segments.length, meanBytes: size, fromPeers: content.bytes.peers, fromOrigin: content.bytes.origin,
  coldMBs: rate(cold), warmMBs: rate(warm), warmEightMBs: rate(warm8), copyMBs: rate(copy), copyEightMBs: rate(copy8),
  coldShare: (rate(cold) / rate(copy)).toFixed(3), warmShare: (rate(warm) / rate(copy)).toFixed(3),
};
console.log(JSON.stringify(figures));
process.exit(0);
