import assert from 'node:assert/strict'
import { afterEach, test } from 'node:test'
import { Hub } from '../dist/hub.js'

const request = { url: 'http://service', token: 'jwt', query: new URLSearchParams({ device: 'd', ack: 'client' }) }
const open = (tab, line, position) =>
  ({ tab, line, kind: 'open', resume: position === undefined ? null : `log:${position}` })
const say = (tab, line, command) => ({ tab, line, kind: 'text', text: JSON.stringify(command) })
const ack = (tab, line, position) => say(tab, line, { type: 'ack', position })
const event = (position) => ({ type: 'event', position })

let hubs = []
afterEach(() => hubs.splice(0).forEach((hub) => hub.stop()))

/** A hub in the tab `a`, the connections that it has opened, and what it has said to whom. */
function start() {
  const connections = []
  const said = []
  const transport = {
    open({ query, token }, sink) {
      const made = { resume: query.get('resume'), token, sent: [], closed: false }
      made.hear = (...frames) => frames.forEach((frame) => sink.frame(JSON.stringify(frame)))
      made.lose = (code) => sink.closed(code, 'gone')
      connections.push(made)
      return { send: (text) => made.sent.push(JSON.parse(text)), close: () => (made.closed = true) }
    },
  }
  const hub = new Hub('hub', 'a', transport, (message) => said.push(message))
  hubs.push(hub)
  const of = (kind, tab) => said.filter((message) => message.kind === kind && (!tab || message.tab === tab))
  const frames = (tab) => of('opened', tab).at(-1)?.frames.map((text) => JSON.parse(text))
  return { hub, connections, said, of, frames }
}

const welcome = (position, log = 'log') => ({ type: 'welcome', log, user: 'u', position, head: position, heartbeat: 25, rooms: [] })

/** The same, with two tabs that are on its first connection, at position 10. */
function two() {
  const all = start()
  all.hub.hear(open('a', 1), request)
  all.connections[0].hear(welcome(10), { type: 'live', position: 10 })
  all.hub.hear(open('b', 1))
  return all
}

test('a tab that comes is welcomed, and gets what is not acknowledged yet', () => {
  const { hub, connections, frames } = two()
  connections[0].hear(event(11), event(12))
  hub.hear(ack('a', 1, 12))
  hub.hear(ack('b', 1, 11))
  hub.hear(open('c', 1))
  assert.deepEqual(frames('c').map(({ type, position }) => [type, position]), [
    ['welcome', 11], ['event', 12], ['live', 10],
  ]) // prettier-ignore
  assert.equal(frames('c')[0].head, 12)
  assert.deepEqual(connections[0].sent, [{ type: 'ack', position: 11 }])
})

test('a tab that has had more than is acknowledged is sent the rest only', () => {
  const { connections, hub, frames } = two()
  connections[0].hear(event(11), event(12))
  hub.hear(open('b', 2, 11))
  assert.deepEqual(frames('b').map(({ position }) => position), [11, 12, 10])
})

test('commands of tabs that use the same ref are answered to who asked', () => {
  const { hub, connections, of } = two()
  hub.hear(say('a', 1, { type: 'rooms', ref: 1 }))
  hub.hear(say('b', 1, { type: 'rooms', ref: 1 }))
  const [first, second] = connections[0].sent
  assert.notEqual(first.ref, second.ref)
  connections[0].hear({ type: 'ok', ref: second.ref, rooms: [] }, { type: 'error', ref: first.ref, code: 'invalid' })
  assert.deepEqual(of('frame', 'b').map(({ text }) => JSON.parse(text)), [{ type: 'ok', ref: 1, rooms: [] }])
  assert.deepEqual(of('frame', 'a').map(({ text }) => JSON.parse(text)), [{ type: 'error', ref: 1, code: 'invalid' }])
  assert.equal(of('frames').length, 1) // nobody else is told
})

test('where the service asks to move, the next connection begins where the slowest tab is, and then replaces the first', () => {
  const { hub, connections, of } = two()
  connections[0].hear(event(11), event(12))
  hub.hear(ack('a', 1, 12))
  connections[0].hear({ type: 'disconnect', code: 1012, reconnect: true, retry_after_ms: 5 })
  hub.hear(open('b', 2, 10)) // it waits for the tab that opens connections
  assert.equal(connections.length, 1)
  hub.hear(open('a', 2, 12), request)
  assert.equal(connections[1].resume, 'log:10')
  connections[0].hear(event(13))
  assert.equal(connections[0].closed, false)
  connections[1].hear({ ...welcome(10), head: 13 })
  assert.equal(connections[0].closed, true)
  assert.deepEqual(of('opened', 'b').at(-1).frames.map((text) => JSON.parse(text).position), [10, 11, 12, 13])
})

test('who needs more than is kept gets it by a connection of its own, and then moves', () => {
  const { hub, connections, of } = two()
  connections[0].hear(event(11), event(12))
  hub.hear(ack('a', 1, 12))
  hub.hear(ack('b', 1, 12))
  hub.hear(say('a', 1, { type: 'refresh_token', ref: 1, token: 'newer' }))
  hub.hear(open('c', 1, 4))
  assert.equal(connections[1].resume, 'log:4')
  assert.equal(connections[1].token, 'newer')
  connections[1].hear(welcome(4), event(5), event(12))
  assert.equal(of('frames').length, 3) // none of that is for the others
  hub.hear(ack('c', 1, 5))
  assert.equal(of('frame', 'c').length, 2)
  hub.hear(ack('c', 1, 12))
  assert.equal(JSON.parse(of('frame', 'c').at(-1).text).type, 'disconnect')
  hub.hear(open('c', 2, 12))
  hub.hear({ tab: 'c', kind: 'shut', line: 1 })
  assert.equal(connections[1].closed, true)
  assert.equal(connections.length, 2)
})

test('more than a thousand frames are not kept, however long a tab takes', () => {
  const { hub, connections, frames } = two()
  for (let position = 11; position <= 1111; position++) connections[0].hear(event(position))
  assert.deepEqual(connections[0].sent, []) // nobody has handled any
  hub.hear(open('c', 1, 10))
  assert.equal(connections[1].resume, 'log:10')
  hub.hear(open('d', 1, 500))
  assert.equal(frames('d').length, 1 + 611 + 1)
})

test('after a failover the log counts from where it stands', () => {
  const { hub, connections } = two()
  connections[0].hear(event(11), event(12))
  hub.hear(ack('a', 1, 12))
  hub.hear(ack('b', 1, 12))
  connections[0].hear({ type: 'gap', from: 12, to: 7, reason: 'failover' }, event(8))
  hub.hear(ack('a', 1, 8))
  assert.deepEqual(connections[0].sent, [{ type: 'ack', position: 12 }])
  hub.hear(ack('b', 1, 8))
  assert.deepEqual(connections[0].sent.at(-1), { type: 'ack', position: 8 })
})

test('on another log nothing is kept of the first, and no position of it counts', () => {
  const { hub, connections, frames } = two()
  connections[0].hear(event(11))
  connections[0].lose(1006)
  hub.hear(open('a', 2, 11), request)
  connections[1].hear(welcome(3, 'another'))
  hub.hear(open('b', 2, 11))
  assert.deepEqual(frames('b').map(({ type, position }) => [type, position]), [['welcome', 3]])
  hub.hear(ack('a', 2, 4))
  assert.deepEqual(connections[1].sent, [])
})

test('where there is no connection to be had, those who wait for it are told', () => {
  const { hub, connections, of } = start()
  hub.hear(open('b', 1))
  assert.equal(connections.length, 0)
  hub.hear(open('a', 1), request)
  hub.hear(open('c', 1))
  connections[0].lose(1006)
  assert.deepEqual(of('refused').map(({ tab, code }) => [tab, code]), [['b', 1006], ['a', 1006], ['c', 1006]])
})

test('a connection that is lost is lost for all, and one that nobody waits for is given up', () => {
  const { hub, connections, of } = two()
  connections[0].lose(1012)
  assert.deepEqual(of('closed').map(({ source, code }) => [source, code]), [[of('opened')[0].source, 1012]])
  hub.hear(open('a', 2, 10), request)
  hub.hear({ tab: 'a', kind: 'shut', line: 2 })
  assert.equal(connections[1].closed, true)
})

test('a tab that has said goodbye is not waited for', () => {
  const { hub, connections } = two()
  connections[0].hear(event(11))
  hub.hear(ack('a', 1, 11))
  assert.deepEqual(connections[0].sent, [])
  hub.hear({ tab: 'b', kind: 'bye' })
  hub.hear(ack('a', 1, 11))
  assert.deepEqual(connections[0].sent, [{ type: 'ack', position: 11 }])
})
