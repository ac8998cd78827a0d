import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EventStream, sse } from '../dist/sse.js'

const STREAM = 'retry: 1873\n\nid: 0\ndata: {"type":"welcome"}\n\n: ping\n\nid: 1\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:{"b":2}\n\n'
const FRAMES = ['{"type":"welcome"}', '{"type":"ping"}', '{"a":\n1}', '{"b":2}']

test('frames come out whole, wherever the stream is cut', () => {
  for (let size = 1; size <= STREAM.length; size++) {
    const stream = new EventStream()
    const frames = []
    for (let at = 0; at < STREAM.length; at += size) frames.push(...stream.feed(STREAM.slice(at, at + size)))
    assert.deepEqual(frames, FRAMES)
  }
})

/** How a stream ends that is answered with this status. */
async function end(status) {
  const fetch = async () => new Response('', { status })
  return await new Promise((resolve) => {
    const query = new URLSearchParams({ device: 'd' })
    sse({ fetch }).open({ url: 'http://service', query }, { frame() {}, closed: (code) => resolve(code) })
  })
}

test('a refusal is final where it is about the client, and not where the service is not there', async () => {
  const codes = await Promise.all([401, 403, 422, 429, 404, 502, 503].map(end))
  assert.deepEqual(codes, [4001, 4003, 1008, 4029, 1006, 1006, 1012])
})
