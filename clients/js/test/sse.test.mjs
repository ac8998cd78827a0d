import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EventStream } from '../dist/sse.js'

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
