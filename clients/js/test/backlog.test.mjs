import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Backlog } from '../dist/backlog.js'

const event = (position) => ({ type: 'event', position })
const gap = (from, to, reason) => ({ type: 'gap', from, to, reason })
const welcome = (more = {}) => ({ type: 'welcome', log: 'L', user: 'alice', position: 0, head: 1000, ...more })

function begun(kept, bound) {
  const backlog = new Backlog(bound)
  backlog.recall(kept ? JSON.stringify(kept) : null)
  backlog.welcome(welcome())
  return backlog
}

function workOff(backlog) {
  const done = []
  for (let item; (item = backlog.next()); backlog.handled(item)) done.push(item.frame.to ?? item.frame.position)
  return done
}

const take = (backlog, ...frames) => frames.forEach((frame) => backlog.take(frame))

test('what comes twice is taken once, handled or not', () => {
  const backlog = begun()
  take(backlog, event(1), event(3))
  assert.equal(backlog.handled(backlog.next()).position, 1)
  take(backlog, event(1), event(3), event(4))
  assert.deepEqual(workOff(backlog), [3, 4])
})

test('what an earlier run has handled is dropped', () => {
  const backlog = begun({ log: 'L', user: 'alice', position: 7 })
  take(backlog, event(6), event(7), event(8))
  assert.deepEqual(workOff(backlog), [8])
})

test('what is kept is said again only as the same user', () => {
  const backlog = begun({ log: 'L', user: 'alice', position: 7 })
  assert.equal(backlog.resume('alice'), 'L:7')
  assert.equal(backlog.resume(undefined, 'alice'), 'L:7')
  assert.equal(backlog.resume('bob', undefined), undefined)
})

test('what is kept and cannot be read is forgotten', () => {
  for (const text of [null, '', '{', 'null']) {
    const backlog = new Backlog()
    backlog.recall(text)
    assert.equal(backlog.kept, undefined)
  }
})

test('another log begins anew: what came of the old one is handled, and counts for nothing', () => {
  const backlog = begun({ log: 'L', user: 'alice', position: 7 })
  take(backlog, event(8))
  backlog.welcome(welcome({ log: 'M' }))
  assert.equal(backlog.kept, undefined)
  take(backlog, event(1))
  assert.equal(backlog.handled(backlog.next()), undefined)
  assert.deepEqual(backlog.handled(backlog.next()), { log: 'M', user: 'alice', position: 1 })
})

test("another user gets nothing of the former one's", () => {
  const backlog = begun()
  take(backlog, event(8), event(9))
  const item = backlog.next()
  backlog.welcome(welcome({ user: 'bob' }))
  assert.equal(backlog.handled(item), undefined)
  take(backlog, event(2))
  assert.deepEqual(workOff(backlog), [2])
})

test('an item that was put back comes first, unless the user is another one by then', () => {
  const backlog = begun()
  take(backlog, event(1), event(2))
  backlog.back(backlog.next())
  assert.deepEqual(workOff(backlog), [1, 2])
  take(backlog, event(3))
  const item = backlog.next()
  backlog.welcome(welcome({ user: 'bob' }))
  backlog.back(item)
  assert.equal(backlog.next(), undefined)
})

test('a gap of retention leads forward only, and is told once', () => {
  const backlog = begun({ log: 'L', user: 'alice', position: 4 })
  take(backlog, gap(4, 10, 'retention'), event(11), gap(4, 10, 'retention'), event(11), event(12))
  assert.deepEqual(workOff(backlog), [10, 11, 12])
  assert.equal(backlog.kept.position, 12)
})

test('a failover leads back', () => {
  const backlog = begun({ log: 'L', user: 'alice', position: 50 })
  take(backlog, gap(50, 30, 'failover'), event(31), event(32))
  assert.deepEqual(workOff(backlog), [30, 31, 32])
  assert.equal(backlog.kept.position, 32)
  take(backlog, event(32), event(33))
  assert.deepEqual(workOff(backlog), [33])
})

test('a gap that waits, and what came after it, is replaced where it is told again', () => {
  for (const working of [false, true]) {
    const backlog = begun({ log: 'L', user: 'alice', position: 47 })
    if (!working) take(backlog, event(48))
    take(backlog, gap(49, 30, 'failover'), event(31))
    const item = working && backlog.next()
    take(backlog, gap(49, 30, 'unknown_position'), event(31), event(32))
    if (item) backlog.handled(item)
    assert.deepEqual(workOff(backlog), working ? [30, 31, 32] : [48, 30, 31, 32])
  }
})

test('a connection that began before what another one has brought since tells it anew, for nothing', () => {
  const backlog = begun({ log: 'L', user: 'alice', position: 50 })
  take(backlog, event(51), event(52))
  backlog.welcome(welcome({ position: 50, head: 50 }))
  take(backlog, event(51), event(52), event(53))
  assert.deepEqual(workOff(backlog), [51, 52, 53])
})

test('beyond the bound nothing is taken until all is worked off: no hole', () => {
  const backlog = begun(undefined, 2)
  take(backlog, event(1), event(2), event(3))
  assert.ok(backlog.full)
  const first = backlog.next()
  take(backlog, event(4))
  backlog.handled(first)
  assert.deepEqual(workOff(backlog), [2])
  assert.ok(backlog.empty)
  backlog.full = false
  take(backlog, event(2), event(3), event(4))
  assert.deepEqual(workOff(backlog), [3, 4])
})

test('what has no position is taken in its turn, and moves nothing', () => {
  const backlog = begun()
  take(backlog, event(5), { type: 'event', ephemeral: true }, { type: 'event', ephemeral: true }, event(6))
  backlog.handled(backlog.next())
  assert.equal(backlog.handled(backlog.next()), undefined)
  assert.equal(backlog.kept.position, 5)
})

test('what is cleared comes again', () => {
  const backlog = begun()
  take(backlog, event(1), event(2))
  backlog.handled(backlog.next())
  backlog.clear()
  take(backlog, event(1), event(2))
  assert.deepEqual(workOff(backlog), [2])
})

test('what was in hand at the end is not taken again, whether it was handled then or put back', () => {
  for (const end of ['handled', 'back']) {
    const backlog = begun()
    take(backlog, event(1), event(2))
    const item = backlog.next()
    backlog.clear()
    backlog[end](item)
    backlog.welcome(welcome())
    take(backlog, event(1), event(2))
    assert.deepEqual(workOff(backlog), end === 'back' ? [1, 2] : [2])
  }
})

test('what was in hand at the end and still is, is not taken again', () => {
  const backlog = begun()
  take(backlog, event(1), event(2))
  const item = backlog.next()
  backlog.clear()
  take(backlog, event(1), event(2))
  backlog.handled(item)
  assert.deepEqual(workOff(backlog), [2])
})
