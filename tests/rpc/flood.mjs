// A node's RPC under a thousand connections at work and ten thousand malformed requests, slow ones among them: how soon a
// well-formed request is answered meanwhile, and whether the node's memory comes back.
//
//   node tests/rpc/flood.mjs --theta target/release/theta [--connections 1000] [--malformed 10000]
//
// The flood comes from a process of its own, so that it does not slow the clock of what is measured.
import { fork, spawn } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const request = (body, headers = '') =>
  `POST /rpc HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n${headers}\r\n${body}`
const STATUS = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'theta.GetStatus', params: [{}] })

/** One keep-alive connection; `ask` gives the status line of an answer. */
class Connection {
  constructor(port) {
    this.socket = net.connect({ host: '127.0.0.1', port, noDelay: true })
    this.text = ''
    this.socket.on('data', (bytes) => {
      this.text += bytes.toString('latin1')
      const head = this.text.indexOf('\r\n\r\n')
      if (head < 0) return
      const length = Number(/content-length: (\d+)/i.exec(this.text)?.[1] ?? 0)
      if (this.text.length < head + 4 + length) return
      const line = this.text.slice(0, this.text.indexOf('\r\n'))
      this.text = ''
      this.done?.(line)
    })
    this.socket.on('error', () => {})
    this.socket.on('close', () => this.done?.('closed'))
  }
  ask(text) {
    return new Promise((resolve) => {
      this.done = resolve
      this.socket.write(text)
    })
  }
}

const MALFORMED = [
  () => request('{'),
  () => request('[]'),
  () => request('['.repeat(50_000)),
  () => request('{"jsonrpc":"2.0","id":1,"method":"theta.GetAccount","params":[{"address":7}]}'),
  () => request('{"jsonrpc":"2.0","id":1,"method":"theta.Nothing"}'),
  () => request(JSON.stringify(Array.from({ length: 5_000 }, () => ({})))),
  () => request(`{"id":${'9'.repeat(10_000)}}`),
  () => request('\xff\xfe\x00'),
  () => 'POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n',
  () => 'POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n',
  () => `GET / HTTP/1.1\r\n${'x: y\r\n'.repeat(5_000)}\r\n`,
  () => '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
  () => 'POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n',
  () => request(STATUS).slice(0, -3),
]

/** The other process: it floods until all is sent, and says what came back. */
async function flood({ port, connections, malformed }) {
  const answers = {}
  const count = (line) => (answers[line] = (answers[line] ?? 0) + 1)
  const open = Array.from({ length: connections }, () => new Connection(port))
  let stop = false
  const workers = open.map(async (connection, index) => {
    await sleep((index * 1000) / connections)
    while (!stop) {
      count(`good: ${await connection.ask(request(STATUS))}`)
      await sleep(1000)
    }
  })
  // Slow bytes, for as long as it takes.
  const slow = Array.from({ length: 100 }, () => {
    const socket = net.connect(port, '127.0.0.1')
    socket.on('error', () => {})
    const timer = setInterval(() => (socket.destroyed ? clearInterval(timer) : socket.write('P')), 200)
    return { socket, timer }
  })
  let sent = 0
  const attackers = Array.from({ length: 50 }, async () => {
    while (sent < malformed) {
      const text = MALFORMED[sent++ % MALFORMED.length]()
      const connection = new Connection(port)
      const line = await Promise.race([connection.ask(Buffer.from(text, 'latin1')), sleep(500).then(() => 'no answer yet')])
      count(`bad: ${line}`)
      connection.socket.destroy()
    }
  })
  await Promise.all(attackers)
  stop = true
  await Promise.all(workers)
  open.forEach(({ socket }) => socket.destroy())
  slow.forEach(({ socket, timer }) => (clearInterval(timer), socket.destroy()))
  process.send(answers)
  process.disconnect()
}

async function measure() {
  const { values: args } = parseArgs({
    options: {
      theta: { type: 'string', default: 'target/release/theta' },
      connections: { type: 'string', default: '1000' },
      malformed: { type: 'string', default: '10000' },
    },
  })
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'theta-rpc-'))
  const words = ['devnet', '--data-dir', folder, '--rpc-port', '0', '--eth-rpc-port', '0', '--gateway-port', '0', '--json']
  const node = spawn(path.resolve(args.theta), words, { stdio: ['ignore', 'pipe', 'inherit'] })
  process.on('exit', () => (node.kill('SIGKILL'), fs.rmSync(folder, { recursive: true, force: true })))
  const ready = await new Promise((resolve, reject) => {
    let text = ''
    node.stdout.on('data', (bytes) => {
      text += bytes
      if (text.includes('\n')) resolve(JSON.parse(text.split('\n')[0]))
    })
    node.on('exit', () => reject(new Error('the devnet ended')))
  })
  const url = JSON.stringify(ready).match(/http:\/\/127\.0\.0\.1:(\d+)\/rpc/)
  const port = Number(url[1])
  const resident = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${node.pid}/status`, 'utf8'))[1]) / 1024
  const files = () => fs.readdirSync(`/proc/${node.pid}/fd`).length
  let probe = new Connection(port)
  const times = []
  const ask = async () => {
    const start = performance.now()
    const line = await probe.ask(request(STATUS))
    times.push(performance.now() - start)
    if (!line.includes('200')) throw new Error(`a well-formed request got: ${line}`)
  }
  const rank = (part) => times.sort((a, b) => a - b)[Math.min(times.length - 1, Math.floor(times.length * part))]
  const say = (what) =>
    console.log(
      JSON.stringify({
        what, requests: times.length, p50_ms: +rank(0.5).toFixed(1), p99_ms: +rank(0.99).toFixed(1),
        max_ms: +rank(1).toFixed(1), resident_mb: +resident().toFixed(1), files: files(), load: os.loadavg()[0].toFixed(1),
      }),
    )
  for (let index = 0; index < 200; index++) (await ask(), await sleep(20))
  say('before')
  // Twice: what the allocator keeps of the first flood serves the second, and what is lost is lost again.
  const [levels, worst] = [[], []]
  for (const round of ['first', 'second']) {
    times.length = 0
    const other = fork(fileURLToPath(import.meta.url), ['--flood'])
    other.send({ port, connections: Number(args.connections), malformed: Number(args.malformed) })
    let answers
    other.on('message', (message) => (answers = message))
    while (!answers) {
      await ask()
      await sleep(20)
    }
    say(`under the ${round} flood`)
    worst.push(rank(0.99))
    console.log(JSON.stringify(answers))
    times.length = 0
    // Slow connections are given up within half a minute.
    await sleep(35_000)
    probe = new Connection(port)
    for (let index = 0; index < 200; index++) (await ask(), await sleep(20))
    say(`after the ${round} flood`)
    levels.push(resident())
  }
  const holds = Math.max(...worst) <= 100 && levels[1] <= levels[0] * 1.1
  console.log(holds ? 'ok' : 'FAILED: above 100 ms, or memory did not come back')
  process.exit(holds ? 0 : 1)
}

if (process.argv.includes('--flood')) process.once('message', flood)
else await measure()
