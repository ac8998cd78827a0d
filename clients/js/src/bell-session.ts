/** What stands behind a bell: an inbox, and a client by which it stays up to date. */

import { Inbox, type Call, type Item, type Notice } from './inbox.js'
import { shared } from './tabs.js'
import type { InboxRead, Recalled, Tidings, TidingsEvent } from './types.js'

export interface Source {
  url: string
  device: string
  /** Return the token; another one than last time if that one was refused. */
  token: (refused: boolean) => Promise<string>
  /** The token, where there will be no other. */
  only: string | undefined
  client: Tidings | undefined
}

/** Milliseconds within which all bells that were told the same ask for the count, each at a moment of its own. */
const SPREAD = { user: 2000, everyone: 20_000 }
/** The same where the service did not answer, at most. */
const LONGEST = 300_000

export class Session {
  inbox: Inbox
  #client: Tidings
  #ends: (() => void)[]
  #timer: ReturnType<typeof setTimeout> | undefined
  #due = false
  #failures = 0
  #page = new AbortController()

  constructor(source: Source, changed: () => void, arrived: (item: Item) => void) {
    this.inbox = new Inbox(caller(source), changed)
    const client = (this.#client = source.client ?? ownClient(source))
    const { signal } = this.#page
    document.addEventListener('visibilitychange', () => this.#due && void this.#recount(), { signal })
    for (const kind of ['online', 'offline']) addEventListener(kind, changed, { signal })
    this.#ends = [
      () => this.#page.abort(),
      () => clearTimeout(this.#timer),
      () => source.client ?? client.close(),
      client.watch('state', () => {
        changed()
        if (client.state === 'live') void this.refresh()
      }),
      client.watch('gap', () => void this.refresh()),
      client.watch('read', (frame) => this.inbox.note(readOf(frame))),
      client.watch('recalled', (frame) => this.#recalled(frame)),
      client.on('*', (event) => this.#came(event, arrived)),
    ]
    if (client.state === 'live') void this.refresh()
  }

  /** The client's; it may take a while until that notices that there is no network. */
  get state(): string {
    return navigator.onLine ? this.#client.state : 'offline'
  }

  end(): void {
    for (const end of this.#ends) end()
  }

  /** Ask for what may have changed unseen. */
  async refresh(list = this.inbox.state !== 'new'): Promise<void> {
    this.#due = false
    try {
      await Promise.all([this.inbox.count(), list && this.inbox.load()])
      this.#failures = 0
    } catch {
      this.#again()
    }
  }

  #came(event: TidingsEvent, arrived: (item: Item) => void): void {
    const { position, to } = event
    if (position === undefined || to.startsWith('room:')) return
    const item = { ...event, position, read: false }
    this.inbox.note({ kind: 'event', position, item })
    if (this.#client.state === 'live') arrived(item)
    // It may have replaced another one, which only the server knows.
    this.#later(item.to === 'everyone' ? SPREAD.everyone : SPREAD.user)
  }

  #recalled({ position, recalled }: Recalled): void {
    this.inbox.note({ kind: 'recalled', position, recalled })
    this.#later(SPREAD.user)
  }

  #later(spread: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#due = true
      if (!document.hidden) void this.#recount()
    }, Math.random() * spread)
  }

  /** The service did not answer: the longer that lasts, the more rarely it is asked. */
  #again(): void {
    if (!this.#page.signal.aborted) this.#later(Math.min(LONGEST, SPREAD.everyone * 2 ** this.#failures++))
  }

  async #recount(): Promise<void> {
    this.#due = false
    try {
      if ((await this.inbox.count()) && this.inbox.state !== 'new') await this.inbox.load()
      this.#failures = 0
    } catch {
      this.#again()
    }
  }
}

function ownClient({ url, device, token, only }: Source): Tidings {
  if (only !== undefined) return shared({ url, device, token: only })
  let given = false
  // The client asks for the first, and again only where that one is no longer good.
  const getToken = () => token(given).finally(() => (given = true))
  return shared({ url, device, getToken })
}

function readOf({ position, unread, more = false, up_to: upTo = 0, positions = [] }: InboxRead): Notice {
  return { kind: 'read', position, unread, more, upTo, positions }
}

function caller({ url, token }: Source): Call {
  const ask = async (path: string, body: object | undefined, refused: boolean): Promise<Response> => {
    const headers: Record<string, string> = { authorization: `Bearer ${await token(refused)}` }
    if (!body) return fetch(url + path, { headers })
    headers['content-type'] = 'application/json'
    return fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body), keepalive: true })
  }
  return async (path, body) => {
    let answer = await ask(path, body, false)
    if (answer.status === 401) answer = await ask(path, body, true)
    if (!answer.ok) throw new Error(`${path} answered ${answer.status}`)
    return answer.json()
  }
}
