import type { Frame } from './backlog.js'

/** What went wrong, by the codes of the protocol; also `disconnected`, `timeout`, `closed`, `full`. */
export class TidingsError extends Error {
  constructor(readonly code: string, message: string, readonly retryAfterMs?: number) {
    super(message)
    this.name = 'TidingsError'
  }
}

export function errorOf({ code, message, retry_after_ms }: Frame): TidingsError {
  return new TidingsError(code, message, retry_after_ms)
}

/** What failed for lack of a connection only. */
export function isLost(error: unknown): boolean {
  return error instanceof TidingsError && error.code === 'disconnected'
}

interface Asked {
  command: object
  again: boolean
  sent: boolean
  resolve(answer: any): void
  reject(error: unknown): void
}

const BOUND = 100
/** The server takes 50 a second. */
const AT_ONCE = 25

/** Commands and their answers, over however many connections. */
export class Commands {
  #asked = new Map<number, Asked>()
  #ref = 0
  #send: ((command: object) => void) | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  /** More is about to be asked for. */
  #gathering = false

  /** `settled` is called when none is left. */
  constructor(private readonly timeout: number, private readonly settled: () => void) {}

  get size(): number {
    return this.#asked.size
  }

  /** `again`: it may be sent again where the connection was lost before the answer came. */
  ask(command: object, again = true): Promise<any> {
    return new Promise((resolve, reject) => {
      if (!this.#send && this.#asked.size >= BOUND) {
        reject(new TidingsError('full', `${BOUND} commands wait for a connection`))
        return
      }
      const ref = ++this.#ref
      const timer = setTimeout(() => asked.reject(new TidingsError('timeout', 'no answer came')), this.timeout)
      const settle = (how: (value: any) => void) => (value: unknown) => {
        clearTimeout(timer)
        this.#asked.delete(ref)
        how(value)
        if (!this.#asked.size) this.settled()
      }
      const asked: Asked = { command: { ...command, ref }, again, sent: false, resolve: settle(resolve), reject: settle(reject) }
      this.#asked.set(ref, asked)
      if (!this.#timer && !this.#gathering) this.#flush()
    })
  }

  /** Whether a frame was the answer to one of them. */
  answer(frame: Frame): boolean {
    const asked = this.#asked.get(frame.ref)
    if (frame.type === 'error') asked?.reject(errorOf(frame))
    else asked?.resolve(frame)
    return !!asked
  }

  /** `repeats` is asked for besides, on this connection only; returns the answers to that. */
  connected(send: (command: object) => void, repeats: Iterable<object> = []): Promise<any>[] {
    this.lost()
    this.#send = send
    this.#gathering = true
    const answers = [...repeats].map((command) => this.ask(command, false))
    this.#gathering = false
    this.#flush()
    return answers
  }

  /** Where the connection ended because of too large a message, that was the largest one. */
  lost(code?: number): void {
    if (code === 1009) {
      const size = ({ command }: Asked) => JSON.stringify(command).length
      const sent = [...this.#asked.values()].filter((asked) => asked.sent).sort((a, b) => size(b) - size(a))
      sent[0]?.reject(new TidingsError('too_large', 'the message is larger than the server takes'))
    }
    clearTimeout(this.#timer)
    this.#timer = this.#send = undefined
    for (const asked of this.#asked.values()) {
      if (asked.sent && !asked.again) asked.reject(new TidingsError('disconnected', 'the connection was lost before the answer came'))
      asked.sent = false
    }
  }

  end(error: TidingsError): void {
    this.lost()
    for (const asked of this.#asked.values()) asked.reject(error)
  }

  /** Those that have waited are sent no faster than the server takes them. */
  #flush(): void {
    this.#timer = undefined
    if (!this.#send) return
    const due = [...this.#asked.values()].filter((asked) => !asked.sent)
    for (const asked of due.slice(0, AT_ONCE)) {
      asked.sent = true
      this.#send(asked.command)
    }
    if (due.length > AT_ONCE) this.#timer = setTimeout(() => this.#flush(), 1000)
  }
}
