import type { Frame } from './backlog.js'
import type { Connection, Transport } from './types.js'

const OPENING = 15_000
const PROBE = 5_000

/** What a link tells its owner, in order; nothing follows `lost`. */
export interface Owner {
  received(link: Link, frame: Frame): void
  lost(link: Link, code: number, reason: string): void
}

/** One connection, and whether it is alive. */
export class Link {
  readonly token: string | undefined
  /** The server's own word about the end. */
  told: Frame | undefined
  readonly #owner: Owner
  readonly #connection: Connection
  /** When something was last heard. */
  #heard = 0
  /** Milliseconds of silence after which it is dead. */
  #patience = OPENING
  #timer: ReturnType<typeof setTimeout> | undefined
  #over = false

  /** `answered`: the server answered over HTTP right before. */
  constructor(transport: Transport, request: Parameters<Transport['open']>[0], readonly answered: boolean, owner: Owner) {
    this.token = request.token
    this.#owner = owner
    this.#connection = transport.open(request, {
      frame: (text) => this.#receive(text),
      closed: (code, reason) => this.#end(code, reason),
    })
    this.#guard(OPENING)
  }

  get silent(): boolean {
    return !this.#heard
  }

  send(command: object): void {
    this.#connection.send(JSON.stringify(command))
  }

  /** Dead, from now on, after two heartbeats without a sign of life. */
  beat(seconds: number): void {
    this.#patience = seconds * 2000
    this.#guard(this.#patience)
  }

  /** Dead unless something is heard very soon. */
  probe(): void {
    this.#guard(PROBE)
    this.send({ type: 'ping' })
  }

  /** Lets go of it; its owner hears nothing more. */
  close(): void {
    this.#over = true
    clearTimeout(this.#timer)
    this.#connection.close()
  }

  #receive(text: string): void {
    if (this.#over) return
    this.#heard = performance.now()
    this.#owner.received(this, JSON.parse(text))
  }

  #end(code: number, reason: string): void {
    if (!this.#over) this.#owner.lost(this, code, reason)
  }

  #guard(wait: number): void {
    clearTimeout(this.#timer)
    const heard = this.#heard
    this.#timer = setTimeout(() => {
      if (this.#heard > heard) this.#guard(Math.max(0, this.#heard + this.#patience - performance.now()))
      else this.#end(1006, 'nothing was heard')
    }, wait)
  }
}
