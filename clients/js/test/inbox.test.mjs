import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Inbox } from '../dist/inbox.js'

/** An inbox whose calls are answered by hand: `answer(path, …)` settles the oldest that waits there. */
function inbox() {
  const waiting = []
  const call = (path, body) => new Promise((resolve, reject) => waiting.push({ path, body, resolve, reject }))
  const made = new Inbox(call, () => {})
  const take = (path) => waiting.splice(waiting.findIndex((call) => call.path.startsWith(path)), 1)[0]
  return { made, waiting, answer: (path, value) => take(path).resolve(value), fail: (path) => take(path).reject(new Error('no')) }
}

const stored = (position, read = false) => ({ position, to: 'user:a', event: 't', data: null, time: '', read })
const item = (position) => ({ position, to: 'user:a', type: 't', data: null, time: '', read: false })
const event = (position) => ({ kind: 'event', position, item: item(position) })
const read = (position, upTo, unread) => ({ kind: 'read', position, upTo, positions: [], unread, more: false })
const positions = ({ items }) => items.map(({ position }) => position)
const page = (...data) => ({ data, next_cursor: null, has_more: false })

test('what the server counts is right, and each event after that is one more', async () => {
  const { made, answer } = inbox()
  const counting = made.count()
  answer('/v1/inbox/unread', { unread: 3, position: 10 })
  await counting
  made.note(event(9)) // it is counted already
  made.note(event(11))
  assert.equal(made.badge.unread, 4)
  made.note(read(12, 11, 0))
  made.note(event(13))
  assert.equal(made.badge.unread, 1)
})

test('a count that was overtaken on its way loses nothing', async () => {
  const { made, answer } = inbox()
  const counting = made.count()
  made.note(event(11))
  made.note(event(12))
  answer('/v1/inbox/unread', { unread: 3, position: 11 })
  await counting
  assert.equal(made.badge.unread, 4)
})

test('a page that was overtaken on its way neither brings back nor loses anything', async () => {
  const { made, answer } = inbox()
  const loading = made.load()
  made.note(event(4))
  made.note({ kind: 'recalled', position: 5, recalled: 2 })
  made.note(read(6, 1, 1))
  answer('/v1/inbox?', page(stored(3), stored(2), stored(1)))
  await loading
  assert.deepEqual(positions(made), [4, 3, 1])
  assert.deepEqual(made.items.map((item) => item.read), [false, false, true])
})

test('a page that is read anew takes off what is no longer there', async () => {
  const { made, answer } = inbox()
  let loading = made.load()
  answer('/v1/inbox?', page(stored(2), stored(1)))
  await loading
  loading = made.load()
  answer('/v1/inbox?', page(stored(1)))
  await loading
  assert.deepEqual(positions(made), [1])
})

test('pages that are empty and have more behind them are passed over', async () => {
  const { made, waiting, answer } = inbox()
  const loading = made.load()
  answer('/v1/inbox?limit=20', { data: [], next_cursor: '500', has_more: true })
  await new Promise(setImmediate)
  assert.equal(waiting[0].path, '/v1/inbox?limit=20&before=500')
  answer('/v1/inbox?limit=20&before=500', page(stored(7)))
  await loading
  assert.deepEqual(positions(made), [7])
})

test('what could not be marked as read is unread again', async () => {
  const { made, answer, fail } = inbox()
  const loading = made.load()
  answer('/v1/inbox?', page(stored(2), stored(1, true)))
  await loading
  const marking = made.readAll()
  assert.deepEqual(made.items.map((item) => item.read), [true, true])
  fail('/v1/inbox/read')
  await assert.rejects(marking)
  assert.deepEqual(made.items.map((item) => item.read), [false, true])
})

test('while nobody looks no more than a page is kept, and the rest can be had again', async () => {
  const { made, waiting, answer } = inbox()
  const loading = made.load()
  answer('/v1/inbox?', page())
  await loading
  for (let position = 1; position <= 50; position++) made.note(event(position))
  made.rest()
  assert.equal(made.items.length, 20)
  assert.equal(made.hasMore, true)
  void made.more()
  assert.equal(waiting[0].path, '/v1/inbox?limit=20&before=31')
})

test('there is no end of new ones, but of those that are kept', async () => {
  const { made, answer } = inbox()
  const loading = made.load()
  answer('/v1/inbox?', page())
  await loading
  for (let position = 1; position <= 1100; position++) made.note(event(position))
  assert.equal(made.items.length, 1000)
  assert.equal(made.items[0].position, 1100)
})
