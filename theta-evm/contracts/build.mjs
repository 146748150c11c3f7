// Compiles the contracts of this folder: `npm ci && npm run build`. With `--check` it only compares what is committed.
//
// The instructions are Istanbul's, which both the main network's rules and our own networks' have. No hash of the sources
// is put behind the code, so that the bytes depend on the instructions alone.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const check = process.argv.includes("--check");
const names = readdirSync(here).filter((name) => name.endsWith(".sol"));
const sources = Object.fromEntries(names.map((name) => [name, { content: readFileSync(join(here, name), "utf8") }]));
const input = {
  language: "Solidity",
  sources,
  settings: {
    evmVersion: "istanbul",
    optimizer: { enabled: true, runs: 200 },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const errors = (output.errors ?? []).filter(({ severity }) => severity === "error");
if (errors.length > 0) {
  console.error(errors.map(({ formattedMessage }) => formattedMessage).join("\n"));
  process.exit(1);
}
mkdirSync(join(here, "artifacts"), { recursive: true });
let stale = 0;
for (const contracts of Object.values(output.contracts)) {
  for (const [name, { abi, evm }] of Object.entries(contracts)) {
    if (evm.deployedBytecode.object === "") continue;
    const files = {
      [`${name}.json`]: `${JSON.stringify({ contractName: name, abi, bytecode: `0x${evm.bytecode.object}` }, null, 1)}\n`,
      [`${name}.hex`]: `${evm.deployedBytecode.object}\n`,
    };
    for (const [file, content] of Object.entries(files)) {
      const path = join(here, "artifacts", file);
      if (existsSync(path) && readFileSync(path, "utf8") === content) continue;
      stale += 1;
      console.log(`${check ? "differs" : "written"}: artifacts/${file}`);
      if (!check) writeFileSync(path, content);
    }
  }
}
process.exit(check && stale > 0 ? 1 : 0);
