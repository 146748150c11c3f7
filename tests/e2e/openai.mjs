// The unmodified `openai` packages from npm and PyPI against a gateway, and the chat box in a real browser.
//
// Vectors need the model that scripts/models fetches, the other client python3 and PyPI, the page chromium: what is not
// there is named.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";

import { call, check, find, openPage, post, run, startDevnet, tempDir, until } from "./harness.mjs";

const TINY = "theta-tiny";
const SENTENCES = "all-minilm-l6-v2";
const json = async (url) => (await fetch(url)).json();

/** A folder where python3 finds the `openai` package of PyPI, or undefined. */
async function pythonClient() {
  const venv = join(homedir(), ".cache", "theta", "openai-3.57.0");
  const python = join(venv, "bin", "python3");
  if (existsSync(join(venv, "done"))) return python;
  const steps = [
    ["python3", ["-m", "venv", "--clear", venv]],
    [python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "openai==3.57.0"]],
    ["touch", [join(venv, "done")]],
  ];
  for (const [program, args] of steps) {
    const { code } = await run(program, args, { ms: 100_000 }).catch(() => ({ code: 1 }));
    if (code !== 0) return undefined;
  }
  return python;
}

export async function openai() {
  const folder = tempDir("openai");
  const data = join(folder, "net");
  const models = process.env.THETA_MODELS ?? join(homedir(), ".cache", "theta", "models");
  const vectors = existsSync(join(models, SENTENCES, "config.json"));
  if (vectors) {
    mkdirSync(join(data, "models"), { recursive: true });
    symlinkSync(join(models, SENTENCES), join(data, "models", SENTENCES));
  } else {
    console.log(`passed over: ${SENTENCES} is not in ${models}; scripts/models fetches it`);
  }
  const net = await startDevnet(data, ["--validators", "1", "--edge-nodes", "2"]);
  const { gateway, edgeNodes, nodes } = net.ready;
  const client = new OpenAI({ baseURL: `${gateway}/v1`, apiKey: "none", maxRetries: 0 });
  const messages = [{ role: "user", content: "What is an edge node paid for?" }];

  await check("openai: models are listed", async () => {
    const names = vectors ? [SENTENCES, TINY] : [TINY];
    await until("both nodes have said what they have", async () =>
      (await json(`${gateway}/api/nodes`)).nodes.filter((node) => node.models.length === names.length).length === 2);
    const list = [];
    for await (const model of client.models.list()) list.push(model.id);
    assert.deepEqual(list, names);
    assert.equal((await client.models.retrieve(TINY)).context_length, 1024);
  });

  const said = await check("openai: the npm client chats, whole and in pieces, and counts the same", async () => {
    const ask = { model: TINY, messages, max_tokens: 40, temperature: 0 };
    const { data: whole, response } = await client.chat.completions.create(ask).withResponse();
    const { content } = whole.choices[0].message;
    assert.ok(content.split(" ").length > 3, content);
    assert.match(response.headers.get("x-theta-job"), /^0x[0-9a-f]{64}$/);
    let text = "";
    let [finish, usage, pieces] = [];
    pieces = 0;
    for await (const chunk of await client.chat.completions.create({
      ...ask, stream: true, stream_options: { include_usage: true },
    })) {
      text += chunk.choices[0]?.delta.content ?? "";
      finish ??= chunk.choices[0]?.finish_reason;
      usage ??= chunk.usage;
      pieces += 1;
    }
    assert.equal(text, content);
    assert.equal(finish, whole.choices[0].finish_reason);
    assert.deepEqual(usage, whole.usage);
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    assert.ok(pieces > 3, `${pieces} pieces`);
    const completion = await client.completions.create({ model: TINY, prompt: "An edge node", max_tokens: 5, seed: 7 });
    assert.equal(completion.usage.completion_tokens <= 5, true);
    return { job: response.headers.get("x-theta-job"), usage: whole.usage };
  });

  await check("openai: what was counted is what was paid, from both sides and on the chain", async () => {
    // Enough that a settlement is worth its fee at each node.
    for (let one = 0; one < 6; one += 1) {
      await client.chat.completions.create({ model: TINY, messages, max_tokens: 60, temperature: 2, seed: one });
    }
    const { tfuelWeiPerToken } = await client.models.retrieve(TINY);
    const job = await json(`${gateway}/api/jobs/${said.job}`);
    assert.equal(job.kind, "infer");
    assert.equal(BigInt(job.paidTfuelWei), BigInt(tfuelWeiPerToken) * BigInt(said.usage.total_tokens));
    const jobs = (await json(`${gateway}/api/jobs?limit=100`)).jobs;
    const paid = jobs.reduce((sum, one) => sum + BigInt(one.paidTfuelWei), 0n);
    await until("the nodes have earned what was paid", async () => {
      const all = await Promise.all(edgeNodes.map((node) => json(`${node.gateway}/status`)));
      return all.reduce((sum, one) => sum + BigInt(one.earnings.earnedTfuelWei), 0n) === paid;
    });
    const { address } = await json(`${gateway}/status`);
    await until("what they have settled is what the chain took from the gateway's fund", async () => {
      const all = await Promise.all(edgeNodes.map((node) => json(`${node.gateway}/status`)));
      const settled = all.reduce((sum, { earnings: one }) =>
        sum + BigInt(one.settledTfuelWei) + BigInt(one.burnedTfuelWei) + BigInt(one.feesTfuelWei), 0n);
      const { reserved_funds: funds } = await call(nodes[0].thetaRpc, "theta.GetAccount", { address });
      const used = funds.reduce((sum, fund) => sum + BigInt(fund.used_fund.tfuelwei), 0n);
      return used > 0n && used === settled;
    });
  });

  if (vectors) {
    const known = JSON.parse(readFileSync(new URL("../fixtures/sentences.json", import.meta.url)));
    const close = (a, b, far) => a.length === b.length && a.every((x, i) => Math.abs(x - b[i]) <= far);

    await check("openai: the npm client embeds, and vectors are the model's", async () => {
      const answer = await client.embeddings.create({ model: SENTENCES, input: known.texts });
      assert.deepEqual(answer.data.map((row) => row.index), known.texts.map((_, index) => index));
      answer.data.forEach((row, index) => assert.ok(close(row.embedding, known.vectors[index], 1e-4), known.texts[index]));
      assert.equal(answer.usage.prompt_tokens, known.tokens.reduce((sum, count) => sum + count));
    });

    await check("openai: numbers and base64 are the same vector; one, two and three hundred texts", async () => {
      const embed = async (more) =>
        JSON.parse((await post(`${gateway}/v1/embeddings`, { model: SENTENCES, input: "hello", ...more })).text);
      const [plain, float, base64, wrong] = await Promise.all(
        [{}, { encoding_format: "float" }, { encoding_format: "base64" }, { encoding_format: "int8" }].map(embed));
      assert.ok(close(plain.data[0].embedding, float.data[0].embedding, 0));
      const bytes = Buffer.from(base64.data[0].embedding, "base64");
      assert.equal(bytes.length, 4 * 384);
      const numbers = Array.from({ length: 384 }, (_, at) => bytes.readFloatLE(4 * at));
      assert.ok(close(numbers, float.data[0].embedding, 1e-6));
      assert.deepEqual([wrong.error.type, wrong.error.param], ["invalid_request_error", "encoding_format"]);
      for (const count of [1, 2, 300]) {
        const input = Array.from({ length: count }, (_, at) => `text ${at}`);
        const { data: rows, usage } = await client.embeddings.create({ model: SENTENCES, input });
        assert.deepEqual(rows.map((row) => row.index), input.map((_, at) => at));
        assert.ok(rows.every((row) => Math.abs(Math.hypot(...row.embedding) - 1) < 1e-4));
        assert.ok(usage.total_tokens >= 4 * count);
      }
      const long = await embed({ input: ["short", "long ".repeat(400), "short"] });
      assert.deepEqual([long.error.code, long.error.param], ["context_length_exceeded", "input[1]"]);
    }, 120_000);
  }

  await check("openai: what is wrong is refused by name, and costs nothing", async () => {
    const status = async (path, body) => {
      const answer = await post(`${gateway}/v1/${path}`, body);
      const { error } = JSON.parse(answer.text);
      return [answer.status, error?.type, error?.param, error?.code];
    };
    const chat = (more) => status("chat/completions", { model: TINY, messages, max_tokens: 3, ...more });
    const invalid = "invalid_request_error";
    assert.deepEqual(await chat({ model: "gpt-4o" }), [404, invalid, "model", "model_not_found"]);
    assert.deepEqual(await chat({ n: 2 }), [400, invalid, "n", "unsupported_parameter"]);
    assert.deepEqual(await chat({ tools: [{}] }), [400, invalid, "tools", "unsupported_parameter"]);
    assert.deepEqual(await chat({ messages: [{ role: "user", content: "x ".repeat(5000) }] }),
      [400, invalid, "messages", "context_length_exceeded"]);
    assert.deepEqual(await status("embeddings", { model: TINY, input: "x" }), [400, invalid, "model", "invalid_value"]);
    assert.deepEqual((await status("chat/completions", "{")).slice(0, 2), [400, invalid]);
    assert.equal((await status("completions", { model: TINY, prompt: "x", logprobs: true }))[2], "logprobs");
    assert.equal((await post(`${gateway}/v1/embeddings`, "x".repeat(9 << 20))).status, 413);
    await assert.rejects(client.chat.completions.create({ model: TINY, messages, max_tokens: 2000 }), {
      status: 400, code: "context_length_exceeded",
    });
    assert.equal((await client.chat.completions.create({ model: TINY, messages, max_tokens: 3, foo: 1 })).choices.length, 1);
  });

  await check("openai: clients that go away or do not read keep nobody waiting", async () => {
    const ask = { model: TINY, messages, stream: true, temperature: 2 };
    for (let one = 0; one < 4; one += 1) {
      const stream = await client.chat.completions.create(ask);
      if (one % 2) stream.controller.abort();
    }
    const answer = await client.chat.completions.create({ model: TINY, messages, max_tokens: 5 });
    assert.ok(answer.usage.completion_tokens <= 5);
    await until("all of it has ended", async () =>
      (await json(`${gateway}/api/jobs?limit=100`)).jobs.every((job) => !["queued", "running"].includes(job.state)));
  }, 60_000);

  const python = await pythonClient();
  if (python) {
    await check("openai: the Python client chats, streams, lists and embeds", async () => {
      const script = new URL("openai_client.py", import.meta.url).pathname;
      const ran = await run(python, [script, `${gateway}/v1`, TINY, ...(vectors ? [SENTENCES] : [])], { ms: 60_000 });
      assert.equal(ran.code, 0, ran.stdout + ran.stderr);
    }, 70_000);
  } else {
    console.log("passed over: python3 with the package openai of PyPI is not here");
  }

  await check("openai: the chat box of the page answers, on wide and narrow screens", async () => {
    const chromium = find(["chromium", "chromium-browser", "google-chrome"]);
    if (!chromium) {
      console.log("passed over: chromium is not here");
      return;
    }
    await openPage(chromium, async ({ page, problems, hosts, shot }) => {
      for (const [name, width, height] of [["chat-wide", 1280, 900], ["chat-narrow", 390, 844]]) {
        await page.setViewport({ width, height, isMobile: width < 500, deviceScaleFactor: 1 });
        await page.goto(`${gateway}/`);
        await until("models are offered", async () => (await page.$$("#model option")).length >= 1);
        await page.type("#question", "What is a block?");
        await page.click("#ask button");
        await until("it has answered", async () => (await page.$eval("#cost", (p) => p.textContent)).includes("made."));
        const lines = await page.$$eval("#talk p", (all) => all.map((p) => p.textContent));
        assert.equal(lines[0], "What is a block?");
        assert.ok(lines[1].length > 5, lines[1]);
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it does not fit the width");
        await shot(name);
      }
      assert.deepEqual(problems, []);
      assert.deepEqual([...hosts], ["127.0.0.1"]);
    });
  }, 60_000);

  await check("openai: the network ends", async () => {
    assert.deepEqual(await net.stop(), { code: 0, signal: null });
  });
}
