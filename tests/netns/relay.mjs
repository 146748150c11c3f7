// A TCP relay for one link between two nodes: adds a delay each way, and can stall, cut and refuse.
import net from 'node:net'

export class Link {
  #pairs = new Set()
  state = 'open' // open, stalled (nothing passes, nothing is closed), cut (what is there is closed, what comes is refused)

  constructor({ listen, to, delay }) {
    this.delay = delay
    this.to = to
    this.server = net.createServer((near) => this.#join(near))
    this.ready = new Promise((resolve, reject) => {
      this.server.once('error', reject)
      this.server.listen({ host: listen.host, port: listen.port }, resolve)
    })
  }

  #join(near) {
    if (this.state === 'cut') return near.destroy()
    const far = net.connect({ host: this.to.host, port: this.to.port, noDelay: true })
    near.setNoDelay(true)
    const pair = { near, far, waiting: [] }
    this.#pairs.add(pair)
    const end = () => {
      this.#pairs.delete(pair)
      near.destroy()
      far.destroy()
    }
    for (const [from, into] of [[near, far], [far, near]]) {
      from.on('data', (bytes) => {
        setTimeout(() => {
          if (this.state === 'stalled') pair.waiting.push([into, bytes])
          else if (!into.destroyed) into.write(bytes)
        }, this.delay)
      })
      from.on('error', end)
      from.on('close', end)
    }
  }

  set(state) {
    this.state = state
    for (const pair of [...this.#pairs]) {
      if (state === 'cut') {
        this.#pairs.delete(pair)
        pair.near.destroy()
        pair.far.destroy()
      }
      if (state === 'open') {
        for (const [into, bytes] of pair.waiting.splice(0)) if (!into.destroyed) into.write(bytes)
      }
    }
  }

  close() {
    this.set('cut')
    this.server.close()
  }
}
