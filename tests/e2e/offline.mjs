// A program outside the workspace that only signs links nothing heavy.

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

import { check, run } from "./harness.mjs";

const HEAVY = ["tokio", "revm", "fjall", "redb", "wasmtime", "libp2p", "reqwest"];

export async function offline() {
  await check("offline: signing alone brings no runtime, machine, store or network", async () => {
    const manifest = fileURLToPath(new URL("offline/Cargo.toml", import.meta.url));
    const args = ["tree", "--manifest-path", manifest, "-e", "normal", "--prefix", "none", "--locked"];
    const { code, stdout, stderr } = await run("cargo", args);
    assert.equal(code, 0, stderr);
    const names = new Set(stdout.split("\n").map((line) => line.split(" ")[0]).filter(Boolean));
    assert(names.has("theta-ledger") && names.has("theta-sdk"), stdout);
    const found = [...names].filter((name) => HEAVY.some((heavy) => name === heavy || name.startsWith(`${heavy}-`)));
    assert.deepEqual(found, []);
  });
}
