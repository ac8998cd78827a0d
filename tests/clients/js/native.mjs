// A client in what React Native has, and has not: an app that keeps its position in a store that takes its time.
import { readFileSync, writeFileSync } from 'node:fs'
import WebSocket from '../../../clients/js/node_modules/ws/wrapper.mjs'

const given = JSON.parse(process.argv[2])
const say = (is, more = {}) => process.stdout.write(`${JSON.stringify({ is, ...more })}\n`)

// `window` is the global object, and no EventTarget; there is no document, and no localStorage.
globalThis.window = globalThis
globalThis.WebSocket = WebSocket
// Before React Native 0.80 half of URLSearchParams throws; Hermes has had no TextDecoder for long.
for (const missing of ['set', 'get', 'has', 'delete', 'getAll', 'sort']) {
  URLSearchParams.prototype[missing] = () => { throw new Error(`URLSearchParams.${missing} is not implemented`) }
}
delete globalThis.TextDecoder

const read = () => { try { return JSON.parse(readFileSync(given.file, 'utf8')) } catch { return {} } }
const later = (value) => new Promise((resolve) => setImmediate(resolve, value))
const store = {
  get: async (key) => later(read()[key] ?? null),
  set: async (key, value) => later(writeFileSync(given.file, JSON.stringify({ ...read(), [key]: value }))),
}

const { connect } = await import('../../../clients/js/dist/index.js')
const tidings = connect({ ...given.options, store })
tidings.watch('state', (notice) => say('state', notice))
tidings.watch('error', (error) => say('error', { message: String(error) }))
tidings.on('*', (event) => say('event', event))

process.stdin.on('data', (line) => {
  const { call } = JSON.parse(line)
  tidings[call]()
  say('called', { call, device: tidings.device, position: tidings.position })
})
