// Nodes that begin with nothing while their network has a long chain: one fetches every block, one a snapshot.
//
//   node tests/rpc/sync.mjs --theta target/release/theta [--blocks 20000] [--rate 100]
import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'

const { values: args } = parseArgs({
  options: {
    theta: { type: 'string', default: 'target/release/theta' },
    blocks: { type: 'string', default: '20000' },
    rate: { type: 'string', default: '100' },
  },
})
const theta = path.resolve(args.theta)
const blocks = Number(args.blocks)
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'theta-sync-'))
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const say = (...words) => console.log(new Date().toISOString().slice(11, 19), ...words)
const running = []

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

/** Starts a node or a network; gives what it says once it is ready. */
async function start(words) {
  const child = spawn(theta, [...words, '--json'], {
    stdio: ['ignore', 'pipe', fs.openSync(path.join(folder, 'log'), 'a')],
    env: { ...process.env, THETA_PASSWORD: 'devnet' },
  })
  running.push(child)
  child.gone = new Promise((resolve) => child.once('exit', resolve))
  const ready = await new Promise((resolve, reject) => {
    let text = ''
    child.stdout.on('data', (bytes) => {
      text += bytes
      if (text.includes('\n')) resolve(JSON.parse(text.split('\n')[0]))
    })
    child.once('exit', (code) => reject(new Error(`${words[0]} ended with ${code}; its log is in ${folder}`)))
  })
  return { child, ready }
}

async function call(url, method, params = {}) {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: [params] }),
  })
  const { result, error } = await answer.json()
  if (error) throw new Error(`${method}: ${error.message}`)
  return result
}

const height = async (url) => Number((await call(url, 'theta.GetStatus')).latest_finalized_block_height)
const block = (url, at) => call(url, 'theta.GetBlockByHeight', { height: `${at}` })

async function reach(url, goal, minutes) {
  const begun = Date.now()
  for (let told = Date.now(); ; await sleep(100)) {
    const at = await height(url).catch(() => -1)
    if (at >= goal) return Date.now() - begun
    if (Date.now() - told > 15_000) {
      say(`   at ${at}`)
      told = Date.now()
    }
    if (Date.now() - begun > minutes * 60_000) throw new Error(`stands at ${at}, not at ${goal}`)
  }
}

/** Rewrites lines of a configuration, or adds them. */
function configure(home, lines) {
  const file = path.join(home, 'config.toml')
  let text = fs.readFileSync(file, 'utf8')
  for (const [key, value] of Object.entries(lines)) {
    const line = `${key} = ${JSON.stringify(value)}`
    const old = new RegExp(`^#? ?${key} = .*$`, 'm')
    text = old.test(text) ? text.replace(old, line) : `${line}\n${text}`
  }
  fs.writeFileSync(file, text)
}

async function newcomer(name, sync, peers, genesis, rpcOfAnother) {
  const home = path.join(folder, name)
  execFileSync(theta, ['init', '--chain', 'devnet', '--data-dir', home], {
    env: { ...process.env, THETA_PASSWORD: 'devnet' },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  fs.copyFileSync(genesis, path.join(home, 'genesis'))
  const rpc = await freePort()
  configure(home, {
    listen: ['/ip4/127.0.0.1/tcp/0'],
    peers,
    sync,
    rpc: `127.0.0.1:${rpc}`,
    'eth-rpc': `127.0.0.1:${await freePort()}`,
    admin: `127.0.0.1:${await freePort()}`,
  })
  const url = `http://127.0.0.1:${rpc}/rpc`
  const goal = await height(rpcOfAnother)
  const begun = Date.now()
  await start(['start', '--config', path.join(home, 'config.toml')])
  await reach(url, goal, 30)
  say(`${name}: at block ${goal} after ${((Date.now() - begun) / 1000).toFixed(1)} s`)
  return url
}

async function main() {
  say(`in ${folder}`)
  const words = ['devnet', '--processes', '--validators', '1', '--no-edge', '--data-dir', path.join(folder, 'net')]
  const ports = ['--rpc-port', '0', '--eth-rpc-port', '0']
  const first = await start([...words, ...ports, '--block-interval-ms', '5'])
  first.child.kill('SIGTERM')
  await first.child.gone
  const home = path.join(folder, 'net', 'validator-0')
  configure(home, { 'snapshot-every': Math.max(100, Math.floor(blocks / 4 / 100) * 100) })

  // The chain, in a short time.
  const { child, ready } = await start(['start', '--config', path.join(home, 'config.toml')])
  const rpc = ready.thetaRpc
  const seconds = Math.max(10, Math.floor(blocks / 200))
  const load = spawn(theta, ['load', '--rpc', rpc, '--senders', '10', '--rate', args.rate, '--seconds', `${seconds}`], { stdio: 'ignore' })
  say(`the chain took ${(await reach(rpc, blocks, 60)) / 1000} s`)
  await new Promise((resolve) => (load.exitCode === null ? load.once('exit', resolve) : resolve()))
  child.kill('SIGTERM')
  await child.gone

  // From now on it grows slowly.
  configure(home, { 'block-interval-ms': 1000 })
  const validator = await start(['start', '--config', path.join(home, 'config.toml')])
  const peers = validator.ready.p2p
  const genesis = path.join(home, 'genesis')
  const full = await newcomer('full', 'full', peers, genesis, rpc)
  const quick = await newcomer('quick', 'snapshot', peers, genesis, rpc)

  const at = Math.min(await height(full), await height(quick), await height(rpc))
  const all = await Promise.all([rpc, full, quick].map((node) => block(node, at)))
  const roots = new Set(all.map((found) => `${found.hash} ${found.state_hash}`))
  if (roots.size !== 1 || !all[0].hash) throw new Error(`they differ at ${at}: ${[...roots]}`)
  say(`all three have block ${at} with state ${all[0].state_hash}`)
  const early = await block(quick, 10).catch(() => null)
  if (early?.hash) throw new Error('the one that was to begin with a snapshot has every block')
  if (!(await block(full, 10)).hash) throw new Error('the one that was to have every block lacks block 10')
}

let failed = null
await main().catch((error) => (failed = error))
for (const child of running) child.kill('SIGKILL')
if (failed) {
  say(`FAILED: ${failed.message}; logs are in ${folder}`)
  process.exit(1)
}
fs.rmSync(folder, { recursive: true, force: true })
say('all of it holds')
