import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Commands, isLost } from '../dist/commands.js'

function make(context, timeout = 30_000) {
  context.mock.timers.enable({ apis: ['setTimeout'] })
  const sent = []
  const commands = new Commands(timeout, () => {})
  return { commands, sent, connect: () => commands.connected((command) => sent.push(command)) }
}

const code = (promise) => promise.then(() => undefined, (error) => error.code)

test('an answer goes to who asked', async (context) => {
  const { commands, sent, connect } = make(context)
  connect()
  const [one, two] = [commands.ask({ type: 'a' }), commands.ask({ type: 'b' })]
  assert.ok(commands.answer({ type: 'ok', ref: sent[1].ref, n: 2 }))
  assert.ok(commands.answer({ type: 'error', ref: sent[0].ref, code: 'rate_limited', message: 'm', retry_after_ms: 7 }))
  assert.ok(!commands.answer({ type: 'ok', ref: sent[1].ref }))
  assert.equal((await two).n, 2)
  await assert.rejects(one, { name: 'TidingsError', code: 'rate_limited', retryAfterMs: 7, message: 'm' })
})

test('commands wait for a connection, a hundred of them', async (context) => {
  const { commands, sent, connect } = make(context)
  const asked = Array.from({ length: 100 }, () => commands.ask({}))
  assert.equal(await code(commands.ask({})), 'full')
  assert.deepEqual(sent, [])
  connect()
  for (let step = 0; step < 4; step++) {
    assert.equal(sent.length, 25 * (step + 1)) // no more than the server takes in a second
    context.mock.timers.tick(1000)
  }
  for (const { ref } of sent) commands.answer({ type: 'ok', ref })
  await Promise.all(asked)
  assert.equal(commands.size, 0)
})

test('what each connection has to be told is told no faster either', async (context) => {
  const { commands, sent } = make(context)
  const repeats = Array.from({ length: 70 }, () => ({ type: 'join_room' }))
  const answers = commands.connected((command) => sent.push(command), repeats)
  for (const count of [25, 50, 70]) {
    assert.equal(sent.length, count)
    context.mock.timers.tick(1000)
  }
  for (const { ref } of sent) commands.answer({ type: 'ok', ref })
  await Promise.all(answers)
})

test('what was sent and not answered is sent again, if that does no harm', async (context) => {
  const { commands, sent, connect } = make(context)
  connect()
  const safe = commands.ask({ type: 'safe' })
  const unsafe = code(commands.ask({ type: 'unsafe' }, false))
  commands.lost()
  const waiting = commands.ask({ type: 'waiting' }, false) // never sent: it is safe yet
  connect()
  assert.equal(await unsafe, 'disconnected')
  assert.deepEqual(sent.map(({ type }) => type), ['safe', 'unsafe', 'safe', 'waiting'])
  for (const { ref } of sent) commands.answer({ type: 'ok', ref })
  await Promise.all([safe, waiting])
})

test('of what was sent the largest was too large', async (context) => {
  const { commands, sent, connect } = make(context)
  connect()
  const [small, large, last] = ['s', 'l'.repeat(1000), 'ss'].map((data) => commands.ask({ data }))
  commands.lost(1009)
  assert.equal(await code(large), 'too_large')
  connect()
  assert.deepEqual(sent.slice(3).map(({ ref }) => ref), [1, 3])
  for (const ref of [1, 3]) commands.answer({ type: 'ok', ref })
  await Promise.all([small, last])
})

test('no answer in time is an error', async (context) => {
  const { commands } = make(context, 50)
  const asked = code(commands.ask({}))
  context.mock.timers.tick(50)
  assert.equal(await asked, 'timeout')
})

test('at the end all fail', async (context) => {
  const { commands, connect } = make(context)
  connect()
  const asked = [code(commands.ask({})), code(commands.ask({}))]
  commands.end(Object.assign(new Error('over'), { code: 'closed' }))
  assert.deepEqual(await Promise.all(asked), ['closed', 'closed'])
  assert.ok(!isLost(new Error('another')))
})
