// Prints a user's events, each once, wherever it was interrupted.
//
//   npm install tidings-client ws                  # ws: for Node 20; Node 22 has a WebSocket of its own
//   export TIDINGS_URL=http://127.0.0.1:8000 TIDINGS_TOKEN=eyJ…
//   node examples/node/listen.mjs
//
// Stop it with Ctrl-C, or kill it, send some events, and start it again: it goes on where it was.
import { readFile, rename, writeFile } from 'node:fs/promises'
import { connect } from 'tidings-client'

const file = 'listen.json'
const kept = JSON.parse(await readFile(file, 'utf8').catch(() => '{}'))

/** Keeps the position in a file, which is replaced at once. */
const store = {
  get: (key) => kept[key] ?? null,
  async set(key, value) {
    kept[key] = value
    await writeFile(`${file}.new`, JSON.stringify(kept))
    await rename(`${file}.new`, file)
  },
}

const tidings = connect({
  url: process.env.TIDINGS_URL,
  token: process.env.TIDINGS_TOKEN,
  device: 'listen.mjs',
  store,
  WebSocket: globalThis.WebSocket ?? (await import('ws')).default,
})

// What is printed is handled: then the position is kept, then acknowledged, and then the next one comes.
tidings.on('*', (event) => console.log(event.position, event.type, JSON.stringify(event.data)))
tidings.watch('state', () => console.error(tidings.state, tidings.reason?.reason ?? ''))

process.once('SIGINT', () => tidings.close())
