// Seven validators in seven network namespaces, every link between them through a relay that adds 25 ms each way.
//
//   sudo node tests/netns/run.mjs --theta target/release/theta [--minutes 10] [--only settle,partition,kills,disk]
//
// Needs root, `ip` and Linux. Nothing leaves the machine; all namespaces are gone at the end.
import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { Link } from './relay.mjs'

const { values: args } = parseArgs({
  options: {
    theta: { type: 'string' },
    minutes: { type: 'string', default: '10' },
    rate: { type: 'string', default: '50' },
    only: { type: 'string', default: 'settle,partition,stall,kills,disk' },
    folder: { type: 'string' },
  },
})
const NODES = 7
const DELAY = 25
const FAULTS = 2
const theta = path.resolve(args.theta ?? 'target/release/theta')
const folder = args.folder ?? fs.mkdtempSync(path.join(os.tmpdir(), 'theta-netns-'))
const ip = (...words) => execFileSync('ip', words, { stdio: ['ignore', 'pipe', 'pipe'] })
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const inside = (i) => `10.77.${i}.2` // the node
const outside = (i) => `10.77.${i}.1` // the relay's side of its cable
const say = (...words) => console.log(new Date().toISOString().slice(11, 19), ...words)
const check = (holds, what) => {
  if (!holds) throw new Error(what)
  say('ok', what)
}

function cables() {
  for (let i = 1; i <= NODES; i++) {
    const name = `theta${i}`
    ip('netns', 'add', name)
    ip('link', 'add', `th${i}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name)
    ip('addr', 'add', `${outside(i)}/24`, 'dev', `th${i}`)
    ip('link', 'set', `th${i}`, 'up')
    ip('-n', name, 'addr', 'add', `${inside(i)}/24`, 'dev', 'eth0')
    ip('-n', name, 'link', 'set', 'eth0', 'up')
    ip('-n', name, 'link', 'set', 'lo', 'up')
  }
}

function pull() {
  for (let i = 1; i <= NODES; i++) {
    try {
      ip('netns', 'del', `theta${i}`)
    } catch {
      // It was never there.
    }
  }
}

/** Keys, genesis and configurations as `theta devnet --processes` makes them; where they listen is ours to say. */
async function prepare() {
  const devnet = spawn(theta, [
    'devnet', '--processes', '--json', '--validators', `${NODES}`, '--accounts', '100', '--data-dir', folder,
    '--rpc-port', '0', '--eth-rpc-port', '0', '--block-interval-ms', '500', '--no-edge',
  ], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ready = await new Promise((resolve, reject) => {
    let text = ''
    devnet.stdout.on('data', (bytes) => {
      text += bytes
      if (text.includes('\n')) resolve(JSON.parse(text.split('\n')[0]))
    })
    devnet.once('exit', (code) => reject(new Error(`the devnet ended with ${code}`)))
  })
  const names = []
  for (const node of ready.nodes) {
    const answer = await fetch(node.thetaRpc, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'theta.GetPeers', params: [{}] }),
    })
    names.push(new Set((await answer.json()).result.peers))
  }
  devnet.kill('SIGTERM')
  await new Promise((resolve) => devnet.once('close', resolve))
  // A node's name among peers is in the others' configurations.
  const text = (i) => fs.readFileSync(path.join(folder, `validator-${i}`, 'config.toml'), 'utf8')
  const peers = [...text(NODES - 1).matchAll(/\/p2p\/(\w+)/g)].map((match) => match[1])
  const last = [...names[0]].find((name) => !peers.includes(name))
  const all = [...peers, last]
  for (let i = 0; i < NODES; i++) {
    const lower = Array.from({ length: i }, (_, j) => `"/ip4/${outside(i + 1)}/tcp/${port(i, j)}/p2p/${all[j]}"`)
    const changed = text(i)
      .replace(/^listen = .*$/m, `listen = ["/ip4/${inside(i + 1)}/tcp/50001"]`)
      .replace(/^peers = (\[[^\]]*\])$/m, `peers = [${lower}]`)
      .replace(/^discover = .*$/m, 'discover = false')
      .replace(/^rpc = .*$/m, `rpc = "${inside(i + 1)}:16888"`)
      .replace(/^eth-rpc = .*$/m, `eth-rpc = "${inside(i + 1)}:18888"`)
      .replace(/^admin = .*$/m, `admin = "${inside(i + 1)}:16900"`)
    fs.writeFileSync(path.join(folder, `validator-${i}`, 'config.toml'), changed)
  }
}

const port = (i, j) => 20000 + i * 100 + j
/** Of i > j, by `i-j`: i dials, j listens. */
const links = new Map()

async function relays() {
  for (let i = 0; i < NODES; i++) {
    for (let j = 0; j < i; j++) {
      const link = new Link({
        listen: { host: outside(i + 1), port: port(i, j) },
        to: { host: inside(j + 1), port: 50001 },
        delay: DELAY,
      })
      await link.ready
      links.set(`${i}-${j}`, link)
    }
  }
}

const nodes = []

function start(i) {
  const log = fs.openSync(path.join(folder, `validator-${i}`, 'log'), 'a')
  const child = spawn('ip', [
    'netns', 'exec', `theta${i + 1}`, theta, 'start', '--json', '--config', path.join(folder, `validator-${i}`, 'config.toml'),
  ], { stdio: ['ignore', 'ignore', log] })
  nodes[i] = { child, gone: new Promise((resolve) => child.once('exit', resolve)) }
}

const url = (i) => `http://${inside(i + 1)}:16888/rpc`

async function call(i, method, params = {}) {
  const answer = await fetch(url(i), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: [params] }),
    signal: AbortSignal.timeout(10_000),
  })
  const { result, error } = await answer.json()
  if (error) throw new Error(`${method}: ${error.message}`)
  return result
}

const height = async (i) => Number((await call(i, 'theta.GetStatus')).latest_finalized_block_height)
const heights = () => Promise.all(nodes.map((_, i) => height(i).catch(() => -1)))

async function until(what, ms, holds) {
  const begun = Date.now()
  for (;;) {
    if (await holds()) return Date.now() - begun
    if (Date.now() - begun > ms) throw new Error(`not within ${ms} ms: ${what}`)
    await sleep(20)
  }
}

/** All nodes have the same block and state at the lowest settled height. */
async function same() {
  const lowest = Math.min(...(await heights()))
  const blocks = await Promise.all(nodes.map((_, i) => call(i, 'theta.GetBlockByHeight', { height: `${lowest}` })))
  const roots = new Set(blocks.map((block) => `${block.hash} ${block.state_hash}`))
  check(lowest > 0 && roots.size === 1, `all seven agree on block ${lowest} and its state`)
}

function load(seconds, rate, extra = []) {
  const urls = nodes.flatMap((_, i) => ['--rpc', url(i)])
  const child = spawn(theta, [
    'load', '--json', '--senders', '100', '--connections', '1', '--batch', '5', '--rate', `${rate}`, '--seconds', `${seconds}`,
    ...urls, ...extra,
  ], { stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  let errors = ''
  child.stdout.on('data', (bytes) => (out += bytes))
  child.stderr.on('data', (bytes) => (errors += bytes))
  return new Promise((resolve) => {
    child.once('close', (code) => resolve({ code, report: out ? JSON.parse(out) : null, errors }))
  })
}

async function settle() {
  const { code, report, errors } = await load(20, args.rate)
  check(code === 0, `transactions from every node settle (${errors.split('\n').at(-2)})`)
  say(`   ${report.settled} of ${report.offered} settled, ${JSON.stringify(report.latencyMs)}`)
  check(report.settled === report.accepted && report.accepted === report.offered, 'each of them')
  await same()
}

async function partition() {
  const group = (i) => (i < 3 ? 0 : 1)
  for (const [name, link] of links) {
    const [i, j] = name.split('-').map(Number)
    if (group(i) !== group(j)) link.set('cut')
  }
  await sleep(3_000)
  const before = await heights()
  await sleep(12_000)
  const after = await heights()
  check(before.every((at, i) => at === after[i]), `3|4: nothing settles in either part (${after})`)
  for (const link of links.values()) link.set('open')
  const highest = Math.max(...after)
  const took = await until('progress', 60_000, async () => (await heights()).every((at) => at > highest + 1))
  say(`   all seven settled anew ${took} ms after the cables were back`)
  await same()
}

async function stall() {
  // Both faulty nodes' cables hold everything back, and are not closed.
  const stalled = [...links].filter(([name]) => name.split('-').some((end) => Number(end) < FAULTS))
  for (const [, link] of stalled) link.set('stalled')
  await sleep(2_000)
  const before = await height(6)
  await sleep(15_000)
  const after = await height(6)
  check(after > before + 2, `two silent of seven: the others settle (${before} to ${after})`)
  for (const [, link] of stalled) link.set('open')
  await until('the silent ones caught up', 60_000, async () => (await heights()).every((at) => at > after))
  await same()
}

async function kills() {
  const seconds = Number(args.minutes) * 60
  const end = Date.now() + seconds * 1000
  // One whose connection is lost may have been taken, so the load looks for each at the end.
  const loading = load(seconds + 20, args.rate)
  let count = 0
  let slowest = 0
  let worst = 0
  while (Date.now() < end) {
    await sleep(1_000 + Math.random() * 3_000)
    const down = [...nodes.keys()].sort(() => Math.random() - 0.5).slice(0, FAULTS)
    const told = []
    for (const i of down) {
      told[i] = await height(i).catch(() => 0)
      nodes[i].child.kill('SIGKILL')
      // `ip netns exec` becomes the program, so this was the node.
      await nodes[i].gone
    }
    await sleep(Math.random() * 1_500)
    const begun = Date.now()
    for (const i of down) start(i)
    for (const i of down) {
      await until(`node ${i} answers`, 20_000, () => height(i).then((at) => at >= told[i]).catch(() => false))
      const answered = Date.now() - begun
      // Voting: what the others settle next is settled here too.
      const goal = Math.max(...(await heights())) + 1
      await until(`node ${i} is back`, 30_000, () => height(i).then((at) => at >= goal).catch(() => false))
      slowest = Math.max(slowest, Date.now() - begun)
      worst = Math.max(worst, answered)
    }
    count += down.length
  }
  say(`   ${count} kills; answering again within ${worst} ms, settling new blocks within ${slowest} ms at worst`)
  const { report, errors } = await loading
  check(report !== null, `the load ended with a report (${errors.split('\n').at(-2)})`)
  say(`   ${report.settled} settled; ${JSON.stringify(report.refused)} ${JSON.stringify(report.dropped)} ${report.wrong}`)
  // One that a node had taken a moment before it was killed may be with nobody, and those of its sender wait for it.
  const lost = report.wrong.filter((text) => !/accepted transactions are \w+ at the end/.test(text))
  check(lost.length === 0, 'nothing that was told to be settled is lost, and the books balance')
  check(slowest <= 5_000, 'every restart was back within 5 s')
  await same()
}

async function disk() {
  const i = NODES - 1
  nodes[i].child.kill('SIGTERM')
  await nodes[i].gone
  const data = path.join(folder, `validator-${i}`)
  const copy = `${data}-copy`
  fs.cpSync(data, copy, { recursive: true })
  const used = Number(execFileSync('du', ['-sk', copy]).toString().split('\t')[0])
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${used + 96 * 1024}k`, 'tmpfs', data])
  try {
    fs.cpSync(copy, data, { recursive: true })
    start(i)
    await until('it settles on the small disk', 30_000, () => height(i).then((at) => at > 0).catch(() => false))
    try {
      execFileSync('dd', ['if=/dev/zero', `of=${data}/ballast`, 'bs=1M'], { stdio: 'ignore' })
    } catch {
      // It is full.
    }
    const loading = load(20, args.rate)
    const code = await Promise.race([nodes[i].gone, sleep(120_000).then(() => 'still there')])
    const log = fs.readFileSync(path.join(data, 'log'), 'utf8').trim().split('\n').at(-1)
    say(`   it ended with ${code}: ${log}`)
    check(code === 1 && /space|full/i.test(log), 'a node with a full disk stops and says why')
    await loading
    fs.rmSync(`${data}/ballast`)
    start(i)
    const goal = await height(0)
    await until('it caught up', 60_000, () => height(i).then((at) => at >= goal).catch(() => false))
    await same()
    nodes[i].child.kill('SIGTERM')
    await nodes[i].gone
  } finally {
    execFileSync('umount', ['-l', data])
  }
}

pull()
let failed = null
try {
  say(`in ${folder}`)
  await prepare()
  cables()
  await relays()
  for (let i = 0; i < NODES; i++) start(i)
  await until('seven nodes settle', 60_000, async () => (await heights()).every((at) => at > 2))
  const parts = { settle, partition, stall, kills, disk }
  for (const name of args.only.split(',')) {
    say(`== ${name}`)
    await parts[name]()
  }
} catch (error) {
  failed = error
}
for (const node of nodes) node?.child.kill('SIGKILL')
for (const link of links.values()) link.close()
pull()
if (failed) {
  say(`FAILED: ${failed.message}; logs are in ${folder}`)
  process.exit(1)
}
fs.rmSync(folder, { recursive: true, force: true })
say('all of it holds')
process.exit(0)
