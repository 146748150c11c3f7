// Starts and stops networks, calls nodes, and counts what passed.
//
// Every wait has a deadline, nothing is tried twice, and whatever was started is killed when the process ends.

import { spawn } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import puppeteer from "puppeteer-core";

export const THETA = process.env.THETA ?? "theta";
export const THETACLI = process.env.THETACLI ?? "thetacli";

/** Longest time for one check; a waiting broadcast takes the node's 60 s at most. */
const CHECK_MS = 30_000;
/** Longest time from a start to the ready line. */
const READY_MS = 30_000;

const children = new Set();
const folders = new Set();

process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
  for (const folder of folders) rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

const counts = { passed: 0, failed: 0 };

/** The last line of the run; the process fails if any check did. */
export function finish() {
  console.log(`${counts.passed} passed, ${counts.failed} failed`);
  process.exit(counts.failed === 0 && counts.passed > 0 ? 0 : 1);
}

/** Ends the run, counted as failed, if it is not done by then. */
export function watchdog(ms) {
  setTimeout(() => {
    console.log(`FAIL  the whole run: not done after ${ms / 1000} s`);
    counts.failed += 1;
    finish();
  }, ms).unref();
}

process.on("uncaughtException", (error) => {
  console.log(`FAIL  outside of any check: ${error.stack}`);
  counts.failed += 1;
  finish();
});

/** Rejects when `promise` takes longer than `ms`. */
export function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not done after ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Asks until the answer is truthy. Errors of `ask` go through at once. */
export async function until(what, ask, ms = 15_000, every = 50) {
  const end = Date.now() + ms;
  for (;;) {
    const answer = await within(Math.max(end - Date.now(), 1), what, ask());
    if (answer) return answer;
    if (Date.now() >= end) throw new Error(`${what}: not so after ${ms} ms`);
    await sleep(every);
  }
}

/** Runs one check and gives what it returned, or undefined if it failed. */
export async function check(name, act, ms = CHECK_MS) {
  const start = Date.now();
  try {
    const result = await within(ms, name, act());
    counts.passed += 1;
    console.log(`ok    ${name} (${Date.now() - start} ms)`);
    return result;
  } catch (error) {
    counts.failed += 1;
    const text = error.code && error.shortMessage ? `${error.shortMessage} [${error.code}]` : error.message;
    console.log(`FAIL  ${name} (${Date.now() - start} ms): ${String(text).slice(0, 600)}`);
    return undefined;
  }
}

export function tempDir(what) {
  const folder = mkdtempSync(join(tmpdir(), `theta-e2e-${what}-`));
  folders.add(folder);
  return folder;
}

/** A child process with its output; `ended` gives `{ code, signal }`. */
export function start(program, args, { env = {}, input } = {}) {
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"] });
  children.add(child);
  const run = { child, stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text) => (run.stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text) => (run.stderr = (run.stderr + text).slice(-100_000)));
  // A program that ends before it has read everything is no failure of its own.
  child.stdin.on("error", () => {});
  child.stdin.end(input ?? "");
  run.ended = new Promise((done, fail) => {
    child.on("error", (error) => fail(new Error(`${program} cannot be started: ${error.message}`)));
    child.on("close", (code, signal) => {
      children.delete(child);
      done({ code, signal });
    });
  });
  run.ended.catch(() => {});
  return run;
}

/** Runs a program to its end. */
export async function run(program, args, { ms = 20_000, ...options } = {}) {
  const process = start(program, args, options);
  try {
    const { code } = await within(ms, `${program} ${args.join(" ")}`, process.ended);
    return { code, stdout: process.stdout, stderr: process.stderr };
  } finally {
    process.child.kill("SIGKILL");
  }
}

/** A running `theta devnet`, with its ready line. */
export async function startDevnet(dataDir, args = []) {
  const process = start(THETA, [
    "devnet", "--data-dir", dataDir, "--rpc-port", "0", "--eth-rpc-port", "0", "--gateway-port", "0", "--json", ...args,
  ]);
  const ended = process.ended.then(({ code, signal }) => {
    throw new Error(`theta devnet ended with ${code ?? signal}: ${process.stderr.slice(-400)}`);
  });
  ended.catch(() => {});
  try {
    const line = until("the ready line", async () => process.stdout.split("\n", 2)[1] !== undefined, READY_MS);
    await Promise.race([line, ended]);
  } catch (error) {
    process.child.kill("SIGKILL");
    throw error;
  }
  const ready = JSON.parse(process.stdout.split("\n", 1)[0]);
  if (ready.ready !== true) throw new Error(`no ready line: ${process.stdout}`);
  const end = (signal, ms) => {
    process.child.kill(signal);
    return within(ms, `the end after ${signal}`, process.ended);
  };
  return {
    ready,
    process,
    stop: () => end("SIGINT", 5_000),
    kill: () => end("SIGKILL", 5_000),
  };
}

let calls = 0;

/** POSTs JSON, or a text as it is, and gives status, headers and text. */
export async function post(url, body, headers = { "content-type": "application/json" }, method = "POST") {
  const options = { method, headers, signal: AbortSignal.timeout(65_000) };
  if (body !== undefined) options.body = typeof body === "string" ? body : JSON.stringify(body);
  const response = await fetch(url, options);
  return { status: response.status, headers: response.headers, text: await response.text() };
}

/** The whole answer to one call. */
export async function ask(url, method, params = {}) {
  const id = (calls += 1);
  const { status, text } = await post(url, { jsonrpc: "2.0", id, method, params });
  if (status !== 200) throw new Error(`${method}: HTTP ${status} ${text}`);
  const answer = JSON.parse(text);
  if (answer.id !== id || answer.jsonrpc !== "2.0") throw new Error(`${method}: not the answer to ${id}: ${text}`);
  return answer;
}

/** The result of one call. */
export async function call(url, method, params = {}) {
  const answer = await ask(url, method, params);
  if (answer.error) throw new Error(`${method}: ${answer.error.code} ${answer.error.message}`);
  return answer.result;
}

/** The results of one batch of calls, in order. */
export async function callMany(url, calls) {
  const results = [];
  for (let from = 0; from < calls.length; from += 50) {
    const part = calls.slice(from, from + 50);
    const { text } = await post(
      url,
      part.map(([method, params], index) => ({ jsonrpc: "2.0", id: index, method, params })),
    );
    const answers = new Map(JSON.parse(text).map((answer) => [answer.id, answer]));
    part.forEach(([method], index) => {
      const { result, error } = answers.get(index) ?? { error: { message: "no answer" } };
      if (error) throw new Error(`${method}: ${error.message}`);
      results.push(result);
    });
  }
  return results;
}

export const settledHeight = async (url) =>
  Number((await call(url, "theta.GetStatus")).latest_finalized_block_height);

/** Waits until `count` more blocks are settled. */
export async function moreBlocks(url, count = 2) {
  const from = await settledHeight(url);
  await until(`${count} blocks above ${from}`, async () => (await settledHeight(url)) >= from + count);
}

/** Balance and sequence; an account that is not there has none. */
export async function account(url, address) {
  const { result, error } = await ask(url, "theta.GetAccount", { address });
  if (error && !/is not found/.test(error.message)) throw new Error(error.message);
  const coins = result?.coins ?? { thetawei: "0", tfuelwei: "0" };
  return {
    theta: BigInt(coins.thetawei),
    tfuel: BigInt(coins.tfuelwei),
    sequence: Number(result?.sequence ?? 0),
  };
}

/** A rejected promise's error. */
export async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("this should have been refused");
}

/** The first of these programs that is here. */
export function find(names) {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    for (const name of names) {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return join(folder, name);
      } catch {
        // Not here.
      }
    }
  }
  return undefined;
}

/** A page of a real browser; what its console says, whom it asks, and pictures of it where SCREENSHOTS names a folder. */
export async function openPage(chromium, act) {
  const browser = await puppeteer.launch({
    executablePath: chromium,
    args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-background-networking"],
  });
  try {
    const page = await browser.newPage();
    const problems = [];
    const hosts = new Set();
    page.on("console", (message) => ["error", "warn"].includes(message.type()) && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("request", (request) => {
      const { protocol, hostname } = new URL(request.url());
      if (protocol.startsWith("http")) hosts.add(hostname);
    });
    const shot = async (name) => {
      if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`), fullPage: true });
    };
    await act({ page, problems, hosts, shot });
  } finally {
    await browser.close();
  }
}
