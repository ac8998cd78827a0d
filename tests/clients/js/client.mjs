// A client that is told what to do by lines of JSON, and says by such lines what it sees.
import { appendFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { connect } from '../../../clients/js/dist/index.js'
import { sse } from '../../../clients/js/dist/sse.js'
import WebSocket from '../../../clients/js/node_modules/ws/wrapper.mjs'

const given = JSON.parse(process.argv[2])
const say = (is, more = {}) => process.stdout.write(`${JSON.stringify({ is, ...more })}\n`)

/** Written whole or not at all, also where the process is killed. */
function fileStore(path) {
  const read = () => { try { return JSON.parse(readFileSync(path, 'utf8')) } catch { return {} } }
  return {
    get: (key) => read()[key] ?? null,
    set(key, value) {
      writeFileSync(`${path}.new`, JSON.stringify({ ...read(), [key]: value }))
      renameSync(`${path}.new`, path)
    },
  }
}

let tokens = given.tokens
function getToken() {
  say('getToken')
  const token = tokens.length > 1 ? tokens.shift() : tokens[0]
  if (token === null) throw new Error('the application is offline')
  return token
}

if (given.page) {
  globalThis.window = new EventTarget()
  globalThis.document = new EventTarget()
}

const options = { device: 'test', backoff: { min: 5, max: 50 }, ...given.options }
if (tokens) options.getToken = getToken
if (given.file) options.store = fileStore(given.file)
if (given.sse === 'transport') options.transport = sse()
if (given.sse === 'fallback') options.fallback = sse()
if (!given.native) options.WebSocket = WebSocket

const tidings = connect(options)
const kinds = given.watch ?? ['gap', 'recalled', 'read', 'room', 'presence']
for (const kind of kinds) tidings.watch(kind, (notice) => say(kind, notice))
tidings.watch('state', (notice) => say('state', { ...notice, now: Date.now() }))
tidings.watch('error', (error) => say('error', { message: String(error?.message ?? error), code: error?.code }))

let gate = given.stopped ? new Promise(() => {}) : undefined
let open
async function handle(event) {
  say('event', event)
  if (given.log) appendFileSync(given.log, `${event.data}\n`)
  if (event.data % 4 === 0 && given.slow) await new Promise((resolve) => setTimeout(resolve, given.slow))
  await gate
}
if (!given.deaf) tidings.on(given.on ?? '*', handle)

const doing = {
  state: () => ({ state: tidings.state, reason: tidings.reason, user: tidings.user, device: tidings.device, position: tidings.position }),
  on: (pattern) => { tidings.on(pattern, handle) },
  throwing: (pattern) => { tidings.on(pattern, () => { throw new Error('a handler threw') }) },
  hold: () => { gate = new Promise((resolve) => { open = resolve }) },
  release: () => { gate = undefined; open?.() },
  happens(name, more) {
    Object.assign(document, more)
    for (const target of [window, document]) target.dispatchEvent(new Event(name))
  },
  setTokens: (...given) => { tokens = given },
  async take(count) {
    const taken = []
    for await (const { data } of tidings) {
      taken.push(data)
      if (taken.length === count) break
    }
    return taken
  },
  async all() {
    try {
      for await (const event of tidings) say('iterated', event)
      return 'ended'
    } catch (error) {
      return `threw ${error.code}`
    }
  },
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { call, arguments: given, number } = JSON.parse(line)
  try {
    const value = await (doing[call] ?? ((...all) => tidings[call](...all)))(...given)
    say('answer', { number, value: value ?? null })
  } catch (error) {
    say('answer', { number, error: error.message, code: error.code, retryAfterMs: error.retryAfterMs })
  }
})
