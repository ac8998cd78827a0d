import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Session } from '../dist/bell-session.js'

const MINUTE = 60_000

/** A session of a page that is looked at, over a client that is live; `answer` is what the service says. */
function begun(context, answer) {
  context.mock.timers.enable({ apis: ['setTimeout'] })
  context.mock.method(Math, 'random', () => 0.5)
  const asked = []
  globalThis.document = Object.assign(new EventTarget(), { hidden: false })
  globalThis.addEventListener = () => {}
  context.mock.method(globalThis, 'fetch', async (url) => {
    asked.push(url)
    return answer()
  })
  const client = { state: 'live', watch: () => () => {}, on: () => () => {} }
  const session = new Session({ url: '', token: async () => 'jwt', client }, () => {}, () => {})
  const pass = async (time) => {
    for (; time > 0; time -= 1000) {
      context.mock.timers.tick(1000)
      await new Promise(setImmediate)
    }
  }
  return { asked, session, pass }
}

const failed = () => new Response('', { status: 503 })
const counted = () => Response.json({ unread: 3, position: 7 })

test('a service that fails is asked more and more rarely, and is found again', async (context) => {
  let answer = failed
  const { asked, session, pass } = begun(context, () => answer())
  await pass(5 * MINUTE)
  assert.ok(asked.length >= 4 && asked.length <= 7, `${asked.length}`)
  answer = counted
  await pass(5 * MINUTE)
  assert.equal(session.inbox.badge.unread, 3)
  const before = asked.length
  await pass(10 * MINUTE)
  assert.equal(asked.length, before)
})

test('a session that has ended asks no more, though its last question fails', async (context) => {
  let fail
  const { asked, session, pass } = begun(context, () => new Promise((_, reject) => (fail = reject)))
  await pass(1000)
  session.end()
  fail(new Error('the network went'))
  await pass(10 * MINUTE)
  assert.equal(asked.length, 1)
})
