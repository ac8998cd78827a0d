import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Tokens } from '../dist/tokens.js'

const token = (n, life = 100) => `${n}.${Buffer.from(JSON.stringify({ sub: 'alice', iat: 9, exp: 9 + life })).toString('base64url')}.s`

test('one token is got and kept; at 80 % of its life it is time for the next', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  let got = 0
  let due = 0
  const tokens = new Tokens(undefined, () => token(++got), () => due++)
  assert.equal(await tokens.fresh(), token(1))
  assert.equal(tokens.user, 'alice')
  context.mock.timers.tick(79_999)
  await tokens.fresh()
  assert.deepEqual([got, due], [1, 0])
  context.mock.timers.tick(1)
  assert.deepEqual([got, due], [1, 1])
  assert.equal(await tokens.fresh(), token(2))
})

test('a refused token is renewed once, until something welcomes the new one', async () => {
  let got = 0
  const tokens = new Tokens(token(0), () => token(++got), () => {})
  assert.ok(tokens.isRenewable(token(0)))
  tokens.refused(token(0))
  assert.equal(await tokens.fresh(), token(1))
  assert.ok(tokens.isRenewable(token(0)), 'the news of the old one say nothing of the new one')
  tokens.refused(token(0))
  assert.equal(tokens.current, token(1))
  assert.ok(!tokens.isRenewable(token(1)))
  tokens.welcomed()
  assert.ok(tokens.isRenewable(token(1)))
  tokens.rest()
})

test('a token that was given is all there is', () => {
  const tokens = new Tokens(token(0), undefined, () => assert.fail('nothing can be refreshed'))
  assert.ok(!tokens.isRenewable(token(0)))
})

test('a life beyond what a timer can count is no life of nothing', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  let due = 0
  new Tokens(token(0, 90 * 86_400), () => '', () => due++)
  context.mock.timers.tick(1000)
  assert.equal(due, 0)
})
