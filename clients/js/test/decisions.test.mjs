import assert from 'node:assert/strict'
import { test } from 'node:test'
import { baseOf, clock, matches, pause, rest, verdict } from '../dist/decisions.js'

const jwt = (payload) => `e30.${Buffer.from(JSON.stringify(payload)).toString('base64url')}.c2ln`

test('what each close code asks for', () => {
  const verdicts = (code) => [verdict(code, true), verdict(code, false)]
  assert.deepEqual(verdicts(4001), ['renew', 'unauthorized'])
  assert.deepEqual(verdicts(4003), ['unauthorized', 'unauthorized'])
  for (const code of [4010, 1008]) assert.deepEqual(verdicts(code), ['closed', 'closed'])
  assert.deepEqual(verdicts(4029), ['rest', 'rest'])
  for (const code of [1000, 1001, 1002, 1005, 1006, 1007, 1009, 1011, 1012, 4009, 4999]) {
    assert.deepEqual(verdicts(code), ['reconnect', 'reconnect'], String(code))
  }
})

test('pauses are full jitter up to a bound that grows', () => {
  for (const [failures, bound] of [[0, 500], [1, 1000], [5, 16_000], [6, 30_000], [2000, 30_000]]) {
    assert.equal(pause(failures, 0), 0)
    assert.equal(pause(failures, 0.5), bound / 2)
    assert.equal(pause(failures, 1), bound)
  }
  assert.equal(pause(3, 1, 5, 20), 20)
})

test('who did too much rests for five seconds at least, and a minute at most', () => {
  assert.deepEqual([rest(0), rest(1)], [5_000, 60_000])
})

test("a token's life counts from when it was got, whatever the clock says", () => {
  const token = jwt({ sub: 'älice/1', iat: 1_000_000, exp: 1_000_100 })
  assert.deepEqual(clock(token, 50), { user: 'älice/1', refreshAt: 80_050 })
})

test('a token that does not tell its life is left alone', () => {
  assert.deepEqual(clock(jwt({ sub: 'a', exp: 5 }), 50), { user: 'a', refreshAt: undefined })
  assert.deepEqual(clock(jwt({ sub: 'a', exp: 5, iat: 6 }), 50), { user: 'a', refreshAt: undefined })
  for (const token of [undefined, '', 'opaque', 'a.b.c', 'a.????.c', jwt(null), jwt('text')]) {
    assert.equal(clock(token, 50).refreshAt, undefined, token)
  }
})

test('the base of the service', () => {
  assert.equal(baseOf('https://a.example/push/'), 'https://a.example/push')
  assert.equal(baseOf('wss://a.example'), 'https://a.example')
  assert.equal(baseOf('ws://a.example:8000//'), 'http://a.example:8000')
})

test('patterns', () => {
  assert.ok(matches('*', '') && matches('*', 'a') && matches('chat.*', 'chat.said') && matches('chat.said', 'chat.said'))
  assert.ok(!matches('chat.*', 'chat') && !matches('chat', 'chat.said') && !matches('', 'a'))
})
