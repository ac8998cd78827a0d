import { Backlog, type Frame } from './backlog.js'
import { Commands, TidingsError } from './commands.js'
import { baseOf, type Clock, clock, matches, pause, rest, verdict } from './decisions.js'
import { defaultStore } from './store.js'
import type {
  Connection, Membership, Notices, Options, PresentUser, PublishOptions, Reason, State, Tidings, TidingsEvent, Transport,
} from './types.js'
import { websocket } from './websocket.js'

/** Milliseconds. */
const OPENING = 15_000
const PROBE = 5_000
const ACK = 100
const LONGEST_TIMER = 2 ** 31 - 1

type Timer = ReturnType<typeof setTimeout> | undefined

/** One connection, and what is known of it. */
interface Link {
  connection: Connection
  token: string | undefined
  /** When something was last heard; 0: nothing yet. */
  heard: number
  /** Dead if nothing is heard for so long. */
  patience: number
  timer: Timer
  /** The server's own word about its end. */
  told?: Frame
  /** HTTP was answered right before it was opened. */
  answered?: boolean
}

interface Listener {
  kind: string
  pattern: string
  handler(notice: any): unknown
}

/** Which frames stand between the events, by what they are watched as. */
const PLACED: Record<string, string | undefined> = {
  event: 'event', gap: 'gap', recalled: 'recalled', inbox_read: 'read', joined_room: 'room', left_room: 'room', live: 'live',
}
const APART = new Set(['state', 'presence', 'error'])
/** Thrown into a handler's place by a loop that was left: its event is not handled. */
const LEFT = Symbol('left')

/** Acts: opens, hears, hands over, acknowledges, waits. What to do is decided elsewhere. */
export class Client implements Tidings {
  state: State = 'closed'
  reason: Reason | undefined
  user: string | undefined
  device: string | undefined

  readonly #options: Options
  readonly #url: string
  readonly #store
  readonly #backlog = new Backlog()
  readonly #commands: Commands
  readonly #listeners = new Set<Listener>()
  /** What a connection has to be told anew, by room. */
  readonly #repeats = new Map<string, object>()
  #transport: Transport
  #token: string | undefined
  #clock: Clock = {}
  #recalled: Promise<void> | undefined
  /** The connection in use, and the one that is being opened. */
  #link: Link | undefined
  #next: Link | undefined
  /** Counts attempts: who finds another number has been overtaken. */
  #attempt = 0
  #opening = false
  #failures = 0
  /** A new token was got, and no welcome has come since. */
  #renewed = false
  /** The last attempt heard nothing at all. */
  #blocked = false
  #retryAt: number | undefined
  /** The server said how long to wait. */
  #bidden = false
  #retryTimer: Timer
  #refreshTimer: Timer
  #ackTimer: Timer
  #acked: number | undefined
  #working = false

  constructor(options: Options) {
    this.#options = options
    this.#url = baseOf(options.url)
    this.#store = options.store ?? defaultStore()
    this.#transport = options.transport ?? websocket(options.WebSocket ?? WebSocket)
    this.#commands = new Commands(options.timeout ?? 30_000, () => this.#letGo())
    this.#hold(options.token)
    this.connect()
  }

  get position(): number | undefined {
    return this.#backlog.kept?.position
  }

  // What the application calls

  on(type: string, handler: (event: TidingsEvent) => unknown): () => void {
    return this.#listen({ kind: 'event', pattern: type, handler })
  }

  watch<K extends keyof Notices>(kind: K, handler: (notice: Notices[K]) => unknown): () => void {
    return this.#listen({ kind, pattern: '*', handler })
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TidingsEvent, void, undefined> {
    let arrive!: (event?: TidingsEvent) => void
    const arrival = () => new Promise<TidingsEvent | undefined>((resolve) => (arrive = resolve))
    let next = arrival()
    let end = this.reason
    let settle: { handled(): void; left(reason: unknown): void } | undefined
    const takeOff = [
      this.on('*', (event) => new Promise<void>((handled, left) => {
        settle = { handled, left }
        arrive(event)
      })),
      this.watch('state', ({ reason }) => {
        if ((end = reason)) arrive()
      }),
    ]
    try {
      while (!end) {
        const event = await next
        next = arrival()
        if (!event) continue
        yield event
        settle!.handled()
      }
      if (end.code !== 1000) throw new TidingsError(this.state, end.reason)
    } finally {
      for (const off of takeOff) off()
      settle?.left(LEFT)
    }
  }

  async join(room: string, options: { durable?: boolean; presence?: boolean } = {}): Promise<void> {
    const { durable, presence } = options
    const command = { type: 'join_room', room, durable, presence }
    await this.#ask(command)
    if (durable === false || presence) this.#repeats.set(room, command)
  }

  async leave(room: string): Promise<void> {
    this.#repeats.delete(room)
    await this.#ask({ type: 'leave_room', room })
  }

  async publish(to: string, type: string, data: unknown = null, options: PublishOptions = {}): Promise<{ position?: number; id?: string }> {
    const { id = options.ephemeral ? undefined : uuid(), echo, ephemeral } = options
    const answer = await this.#ask({ type: 'publish', to, event: type, data, id, echo, ephemeral }, !ephemeral)
    return { position: answer.position, id: answer.id }
  }

  async presence(room: string): Promise<PresentUser[]> {
    return (await this.#ask({ type: 'presence', room })).users
  }

  async rooms(): Promise<Membership[]> {
    return (await this.#ask({ type: 'rooms' })).rooms
  }

  async members(room: string): Promise<{ user: string }[]> {
    return (await this.#ask({ type: 'room_members', room })).members
  }

  connect(): void {
    if (this.state !== 'closed' && this.state !== 'unauthorized') return
    this.reason = undefined
    this.#renewed = false
    this.#failures = 0
    if (this.#options.getToken && this.state === 'unauthorized') this.#token = undefined
    this.#attend('addEventListener')
    void this.#open()
  }

  close(): void {
    if (this.reason) return
    this.#sendAck()
    this.#end('closed', { code: 1000, reason: 'closed by the application' })
  }

  // Listening

  #listen(listener: Listener): () => void {
    this.#listeners.add(listener)
    void this.#work()
    return () => void this.#listeners.delete(listener)
  }

  /** Hands over one thing, to one handler after the other. What one of them throws holds up nobody. */
  async #tell(kind: string, notice: any, type = ''): Promise<void> {
    for (const listener of [...this.#listeners]) {
      if (listener.kind !== kind || !matches(listener.pattern, type)) continue
      try {
        await listener.handler(notice)
      } catch (error) {
        if (error === LEFT && !this.#isHeard()) throw error
        if (error !== LEFT) this.#report(error)
      }
    }
  }

  #report(error: unknown): void {
    const watchers = [...this.#listeners].filter(({ kind }) => kind === 'error')
    if (!watchers.length) console.error(error)
    for (const { handler } of watchers) {
      try {
        handler(error)
      } catch (another) {
        console.error(another)
      }
    }
  }

  #isHeard(): boolean {
    return [...this.#listeners].some(({ kind }) => !APART.has(kind))
  }

  /** Works off what has come, as long as somebody listens: handled, kept, acknowledged, one after the other. */
  async #work(): Promise<void> {
    if (this.#working) return
    this.#working = true
    for (let item; this.#isHeard() && (item = this.#backlog.next()); ) {
      try {
        await this.#tell(PLACED[item.frame.type]!, noticeOf(item.frame), item.frame.event)
      } catch {
        this.#backlog.back(item)
        continue
      }
      const kept = this.#backlog.handled(item)
      if (!kept) continue
      try {
        await this.#store.set(this.#key(), JSON.stringify(kept))
      } catch (error) {
        this.#report(error)
      }
      this.#acknowledge()
    }
    this.#working = false
    if (this.#backlog.full && this.#backlog.empty) this.#comeBack()
  }

  /** At most one in a while, and at once when all is worked off. */
  #acknowledge(): void {
    if (this.#ackTimer) return
    if (this.#backlog.empty) this.#sendAck()
    this.#ackTimer = setTimeout(() => {
      this.#ackTimer = undefined
      if (this.#sendAck()) this.#acknowledge()
    }, ACK)
  }

  #sendAck(): boolean {
    const { position } = this
    if (!this.#link || position === undefined || position === this.#acked) return false
    this.#acked = position
    this.#send(this.#link, { type: 'ack', position })
    return true
  }

  // Connecting

  async #open(): Promise<void> {
    const attempt = ++this.#attempt
    clearTimeout(this.#retryTimer)
    this.#retryAt = undefined
    this.#opening = true
    this.#lack()
    try {
      const answered = await this.#isAnswered()
      const request = await this.#request()
      if (attempt === this.#attempt) this.#start(request, answered)
    } catch (error) {
      if (attempt !== this.#attempt) return
      this.#report(error)
      this.#opening = false
      this.#waitLonger()
    }
  }

  async #request(): Promise<Parameters<Transport['open']>[0]> {
    await (this.#recalled ??= this.#recall())
    if (this.#options.getToken && (!this.#token || Date.now() >= this.#clock.refreshAt!)) {
      this.#hold(await this.#options.getToken())
    }
    const query = new URLSearchParams({ device: this.device!, ack: 'client' })
    const resume = this.#backlog.resume(this.#clock.user, this.user)
    if (resume) query.append('resume', resume)
    if (this.#options.presence) query.append('presence', '1')
    return { url: this.#url, token: this.#token, query }
  }

  #start(request: Parameters<Transport['open']>[0], answered: boolean): void {
    const link: Link = { connection: undefined!, token: request.token, heard: 0, patience: OPENING, timer: undefined, answered }
    const isOurs = () => this.#link === link || this.#next === link
    this.#next = link
    link.connection = this.#transport.open(request, {
      frame: (text) => { if (isOurs()) this.#receive(link, JSON.parse(text)) },
      closed: (code, reason) => { if (isOurs()) this.#lost(link, code, reason) },
    })
    this.#guard(link)
  }

  /** Which device this is, and how far it has got. */
  async #recall(): Promise<void> {
    try {
      this.device = this.#options.device ?? (await this.#store.get('tidings:device')) ?? undefined
      if (!this.device) {
        this.device = `web-${uuid()}`
        await this.#store.set('tidings:device', this.device)
      }
      this.#backlog.recall(await this.#store.get(this.#key()))
    } catch (error) {
      this.#recalled = undefined
      throw error
    }
  }

  #key(): string {
    return `tidings:${this.#url}:${this.device}`
  }

  /** Whether it is only WebSockets that do not get through. */
  async #isAnswered(): Promise<boolean> {
    if (!this.#blocked || !this.#options.fallback) return false
    return fetch(`${this.#url}/healthz`).then(({ ok }) => ok, () => false)
  }

  #hold(token: string | undefined): void {
    const { user } = this.#clock
    this.#token = token
    this.#clock = clock(token, Date.now())
    if (user !== this.#clock.user) this.user = undefined
    this.#refreshIn(this.#clock.refreshAt! - Date.now())
  }

  #refreshIn(wait: number): void {
    clearTimeout(this.#refreshTimer)
    if (wait >= 0 && this.#options.getToken) {
      this.#refreshTimer = setTimeout(() => void this.#refresh(), Math.min(wait, LONGEST_TIMER))
    }
  }

  /** Goes on with a newer token on the same connection; where there is none, the next attempt gets one. */
  async #refresh(failures = 0): Promise<void> {
    if (!this.#link) return
    try {
      const token = await this.#options.getToken!()
      await this.#ask({ type: 'refresh_token', token }, false)
      this.#hold(token)
    } catch (error) {
      if (!isLost(error)) this.#report(error)
      this.#refreshTimer = setTimeout(() => void this.#refresh(failures + 1), this.#pause(failures))
    }
  }

  // Hearing

  #receive(link: Link, frame: Frame): void {
    link.heard = performance.now()
    this.#blocked = false
    if (frame.type === 'welcome') this.#welcome(link, frame)
    else if (frame.type === 'disconnect') this.#bid(link, frame)
    else if (frame.ref !== undefined && this.#commands.answer(frame)) return
    else if (frame.type === 'error') this.#report(new TidingsError(frame.code, frame.message, frame.retry_after_ms))
    else if (frame.type.startsWith('user_')) void this.#tell('presence', frame)
    else if (PLACED[frame.type]) this.#take(frame)
  }

  #take(frame: Frame): void {
    this.#backlog.take(frame)
    if (frame.type === 'live') {
      this.#failures = 0
      this.#acked = undefined // this connection may have been sent less than what is handled, until now
      this.#acknowledge()
      this.#become('live')
    }
    this.#letGo()
    void this.#work()
  }

  #welcome(link: Link, frame: Frame): void {
    this.#drop(this.#link)
    this.#link = link
    this.#next = undefined
    this.#opening = this.#renewed = false
    this.#acked = undefined
    link.patience = frame.heartbeat * 2000
    this.#guard(link)
    this.user = frame.user
    this.#backlog.welcome(frame)
    this.#commands.connected((text) => link.connection.send(text))
    for (const command of this.#repeats.values()) {
      this.#ask(command, false).catch((error) => isLost(error) || this.#report(error))
    }
    this.#become('catching-up')
  }

  /** The server says that it will close: until then this connection goes on, and its word on the pause counts. */
  #bid(link: Link, frame: Frame): void {
    link.told = frame
    if (frame.reconnect && frame.retry_after_ms >= 0 && link === this.#link && !this.#opening && !this.#retryAt) {
      this.#wait(frame.retry_after_ms, true)
    }
  }

  #lost(link: Link, lostCode: number, lostReason: string): void {
    const { code = lostCode, reason = lostReason, retry_after_ms = -1 } = link.told ?? ({} as Partial<Frame>)
    if (link === this.#next) this.#failed(link)
    this.#drop(link)
    const what = verdict(code, this.#isRenewable(link))
    if (what === 'unauthorized' || what === 'closed') return this.#end(what, { code, reason })
    if (what === 'renew') this.#distrust(link)
    if (this.#opening || this.#retryAt || this.#isDeaf()) this.#lack()
    else if (what === 'renew') void this.#open()
    else if (what === 'rest') this.#wait(rest(Math.random()), true)
    else if (retry_after_ms >= 0) this.#wait(retry_after_ms, true)
    else this.#waitLonger()
  }

  /** Whether there is, or can be had, another token than the one that was refused. */
  #isRenewable({ token }: Link): boolean {
    return !!this.#options.getToken && (token !== this.#token || !this.#renewed)
  }

  #distrust({ token }: Link): void {
    if (token !== this.#token) return
    this.#token = undefined
    this.#renewed = true
  }

  #failed(link: Link): void {
    this.#opening = false
    if (link.heard) return
    this.#blocked = true
    if (link.answered) this.#transport = this.#options.fallback!
  }

  // Leaving and coming back

  #pause(failures: number): number {
    const { min, max } = this.#options.backoff ?? {}
    return pause(failures, Math.random(), min, max)
  }

  #waitLonger(): void {
    this.#wait(this.#pause(this.#failures++))
  }

  #wait(duration: number, bidden = false): void {
    this.#bidden = bidden
    this.#retryAt = Date.now() + duration
    this.#retryTimer = setTimeout(() => void this.#open(), duration)
    this.#lack()
  }

  #drop(link: Link | undefined): void {
    if (!link) return
    clearTimeout(link.timer)
    if (link === this.#link) {
      this.#link = undefined
      this.#commands.lost()
    }
    if (link === this.#next) this.#next = undefined
    link.connection?.close()
  }

  /** There is no room, and nobody waits for an answer: a connection is of no use. */
  #isDeaf(): boolean {
    return this.#backlog.full && !this.#backlog.empty && !this.#commands.size
  }

  #letGo(): void {
    if (!this.#link || !this.#isDeaf()) return
    this.#drop(this.#link)
    this.#lack()
  }

  /** There is room again. */
  #comeBack(): void {
    this.#backlog.full = false
    this.#drop(this.#link)
    if (this.#opening || this.#retryAt) this.#lack()
    else if (!this.reason) void this.#open()
  }

  /** Says that there is no connection, where there is none. */
  #lack(): void {
    if (!this.#link) this.#become(this.#opening ? 'connecting' : 'offline')
  }

  #end(state: 'unauthorized' | 'closed', reason: Reason): void {
    this.#attempt++
    this.#opening = false
    this.#retryAt = undefined
    clearTimeout(this.#retryTimer)
    clearTimeout(this.#refreshTimer)
    clearTimeout(this.#ackTimer)
    this.#ackTimer = undefined
    this.#attend('removeEventListener')
    this.#drop(this.#link)
    this.#drop(this.#next)
    this.#backlog.clear()
    this.reason = reason
    this.#commands.end(new TidingsError('closed', reason.reason))
    this.#become(state)
  }

  #become(state: State): void {
    if (state === this.state && state !== 'offline') return
    this.state = state
    const retryAt = state === 'offline' ? this.#retryAt : undefined
    void this.#tell('state', { state, retryAt, reason: this.reason })
  }

  // Whether the link is alive

  #guard(link: Link, wait = link.patience): void {
    clearTimeout(link.timer)
    const { heard } = link
    link.timer = setTimeout(() => {
      if (link.heard > heard) this.#guard(link, Math.max(0, link.heard + link.patience - performance.now()))
      else this.#lost(link, 1006, 'nothing was heard')
    }, wait)
  }

  /** The page is looked at again, or the network is back: what was waiting or asleep is not believed. */
  readonly #wake = ({ type }: Event): void => {
    if (type === 'visibilitychange' && document.hidden) return
    if (this.#retryAt && !this.#bidden && !this.#link) void this.#open()
    else if (this.#link) {
      this.#guard(this.#link, PROBE)
      this.#send(this.#link, { type: 'ping' })
    }
  }

  #attend(how: 'addEventListener' | 'removeEventListener'): void {
    globalThis.document?.[how]('visibilitychange', this.#wake)
    for (const name of ['online', 'pageshow']) globalThis.window?.[how]?.(name, this.#wake) // React Native's window has none of it
  }

  // Saying

  #send(link: Link, command: object): void {
    link.connection.send(JSON.stringify(command))
  }

  #ask(command: object, again?: boolean): Promise<any> {
    if (this.reason) return Promise.reject(new TidingsError('closed', this.reason.reason))
    const answer = this.#commands.ask(command, again)
    if (this.#backlog.full && !this.#link && !this.#opening && !this.#retryAt) void this.#open()
    return answer
  }
}

/** What failed for lack of a connection is done again on the next one. */
function isLost(error: unknown): boolean {
  return error instanceof TidingsError && error.code === 'disconnected'
}

function noticeOf(frame: Frame): unknown {
  if (frame.type !== 'event') return frame
  const { event, ...rest } = frame
  return { ...rest, type: event }
}

/** Not `crypto.randomUUID`, which pages without TLS do not have. */
function uuid(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
