import type { Transport } from './types.js'

export interface SseOptions {
  /** Another than the global one. */
  fetch?: typeof fetch
}

/** Bytes of a stream of Server-Sent Events to frames (HTML §9.2.6): `data` alone counts, and comments as signs of life. */
export class EventStream {
  #rest = ''
  #data: string[] = []

  /** Returns the frames that are whole by now. The server ends lines by a line feed. */
  feed(text: string): string[] {
    const lines = (this.#rest + text).split('\n')
    this.#rest = lines.pop()!
    return lines.flatMap((line) => this.#line(line.replace(/\r$/, '')))
  }

  #line(line: string): string[] {
    if (line.startsWith(':')) return ['{"type":"ping"}']
    if (line.startsWith('data:')) this.#data.push(line.slice(5).replace(/^ /, ''))
    if (line || !this.#data.length) return []
    return [this.#data.splice(0).join('\n')]
  }
}

/** A stream of Server-Sent Events, for where WebSockets are blocked. It carries no commands. */
export function sse(options: SseOptions = {}): Transport {
  const ask = options.fetch ?? ((...request) => fetch(...request))
  return {
    open({ url, token, query }, sink) {
      const ending = new AbortController()
      const device = query.get('device')
      const { signal } = ending
      const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {}
      const credentials = token ? 'omit' : 'include'

      const end = (code: number, reason: string) => {
        if (signal.aborted) return
        ending.abort()
        sink.closed(code, reason)
      }

      async function listen() {
        query.delete('ack')
        const answer = await ask(`${url}/v1/stream?${query}`, { headers, credentials, signal, cache: 'no-store' })
        if (!answer.ok || !answer.body) return end(CODES[answer.status] ?? 1006, `HTTP ${answer.status}`)
        const stream = new EventStream()
        const decoder = new TextDecoder()
        const reader = answer.body.getReader()
        for (let piece; !(piece = await reader.read()).done; ) {
          for (const frame of stream.feed(decoder.decode(piece.value, { stream: true }))) {
            if (!signal.aborted) sink.frame(frame)
          }
        }
        end(1006, 'the stream has ended')
      }

      /** What has been handled is said by a request of its own. Where it is lost, the next one says more. */
      function acknowledge(position: number) {
        const body = JSON.stringify({ device, position })
        const keepalive = true // also while the page goes away
        ask(`${url}/v1/ack`, { method: 'POST', headers: { ...headers, 'Content-Type': 'application/json' }, credentials, keepalive, body }).catch(() => {})
      }

      /** Nothing can be asked on the stream: whether the server can still be reached is the best that can be known. */
      function probe() {
        ask(`${url}/healthz`, { cache: 'no-store', signal }).then(() => signal.aborted || sink.frame('{"type":"pong"}'), () => end(1006, 'out of reach'))
      }

      listen().catch((error) => end(1006, String(error)))
      return {
        send(text) {
          const { type, ref, position } = JSON.parse(text)
          if (type === 'ack') acknowledge(position)
          else if (type === 'ping') probe()
          else queueMicrotask(() => sink.frame(JSON.stringify({ type: 'error', ref, code: 'unsupported', message: 'a stream carries no commands' })))
        },
        close: () => ending.abort(),
      }
    },
  }
}

/** The close codes that mean the same as a refusal. 404 is none: a proxy says that while it has no service behind it. */
const CODES: Record<number, number | undefined> = { 401: 4001, 403: 4003, 422: 1008, 429: 4029, 503: 1012 }
