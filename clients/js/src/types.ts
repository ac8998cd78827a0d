/** What the parts of the client have in common, and what its users see. Frames are those of the protocol. */

/** What was published, as its handlers get it. */
export interface TidingsEvent {
  /** Its place in the log; an ephemeral event has none. */
  position?: number
  /** The producer's, or else the first position of its request; an ephemeral event may have none. */
  id?: string
  /** `user:<id>`, `room:<name>` or `everyone`. */
  to: string
  type: string
  data: unknown
  /** When it was committed: RFC 3339, UTC. */
  time: string
  /** The user who published it, where a client did. */
  from?: string
  ephemeral?: true
}

export type State =
  /** An attempt is under way, and nothing is open. */
  | 'connecting'
  /** Connected; what was missed is coming. */
  | 'catching-up'
  /** Connected, and everything has come. */
  | 'live'
  /** Waiting before the next attempt, or for the handlers to work off a full queue. */
  | 'offline'
  /** Ended: no token that is believed, or something that is not allowed. */
  | 'unauthorized'
  /** Ended: by `close()`, by an admin, or because the request makes no sense. */
  | 'closed'

/** Why it ended. */
export interface Reason {
  /** The close code, as docs/protocol.md has them. */
  code: number
  reason: string
}

export interface StateNotice {
  state: State
  /** When the next attempt is, in milliseconds since the epoch; where `state` is `offline`. */
  retryAt?: number
  /** Where it ended. */
  reason?: Reason
}

/** What lay between cannot be had. */
export interface Gap {
  type: 'gap'
  from: number
  to: number
  reason: 'retention' | 'failover' | 'unknown_position'
}

/** The event at `recalled` was taken back. */
export interface Recalled {
  type: 'recalled'
  position: number
  recalled: number
}

/** The user has read events of the inbox, on whichever device. */
export interface InboxRead {
  type: 'inbox_read'
  position: number
  up_to?: number
  positions?: number[]
  unread: number
  /** The count looked at no more than so much: there are at least so many. */
  more?: boolean
}

/** The user's own membership has changed, by whichever device. */
export interface RoomChange {
  type: 'joined_room' | 'left_room'
  room: string
  position: number
}

/** Somebody else came or went. */
export interface PresenceChange {
  type: 'user_connected' | 'user_disconnected' | 'user_joined_room' | 'user_left_room'
  user: string
  info?: unknown
  room?: string
}

/** What can be watched. `gap`, `recalled`, `read` and `room` come in their place between the events. */
export interface Notices {
  state: StateNotice
  gap: Gap
  recalled: Recalled
  read: InboxRead
  room: RoomChange
  presence: PresenceChange
  error: unknown
}

export interface PresentUser {
  user: string
  info?: unknown
  devices: number
  since: string
}

export interface Membership {
  room: string
  source: 'api' | 'client' | 'connection'
}

export interface PublishOptions {
  /** Makes it safe to repeat: it is accepted once. Made up if it is left out. */
  id?: string
  /** `false`: not back to this device. */
  echo?: boolean
  /** Not stored; it may be lost. */
  ephemeral?: boolean
}

/** Where the position is kept over reloads and restarts. */
export interface Store {
  get(key: string): string | null | Promise<string | null>
  set(key: string, value: string): void | Promise<void>
}

/** A way to the server. It gives out frames in order, and says once that it has ended. */
export interface Transport {
  /** `url` is the base, `http(s)://host[/path]` without a slash at its end. `sink` is told nothing before this has returned. */
  open(request: { url: string; token?: string; query: URLSearchParams }, sink: Sink): Connection
}

export interface Sink {
  frame(text: string): void
  /** 1006 where the connection was lost. Nothing may follow. */
  closed(code: number, reason: string): void
}

export interface Connection {
  send(text: string): void
  close(): void
}

/** What `new WebSocket(url, protocols)` has to be: the browser's, or `ws`'s. */
export type WebSocketClass = new (url: string, protocols: string[]) => {
  onmessage: ((event: any) => unknown) | null
  onclose: ((event: any) => unknown) | null
  onerror: ((event: any) => unknown) | null
  readonly readyState: number
  send(text: string): void
  close(code?: number): void
}

export interface Options {
  /** The base of the service: `https://push.example.com`, `http(s)` or `ws(s)`, with a path where there is one. */
  url: string
  /** A JSON Web Token. Without it and `getToken` the browser's cookie counts. */
  token?: string
  /** Gets a token, whenever a new one is needed. A failure is tried again like a lost connection; one that never settles is waited for. */
  getToken?: () => string | Promise<string>
  /** Which receiver of the user this is. By default made up once, and kept in `store`. */
  device?: string
  /** By default localStorage; memory where there is none. */
  store?: Store
  /** Tell me who connects and disconnects; needs the token's claim. */
  presence?: boolean
  /** Where there is no global one: `ws`'s. */
  WebSocket?: WebSocketClass
  /** Another way than the WebSocket. */
  transport?: Transport
  /** The way where WebSockets are blocked: `sse()`. */
  fallback?: Transport
  /** Pauses before reconnects, in milliseconds: chance between 0 and `min`·2ⁿ, at most `max`. 500 and 30,000. */
  backoff?: { min?: number; max?: number }
  /** How long a command may take, waiting for a connection included, in milliseconds. 30,000. */
  timeout?: number
}

export interface Tidings extends AsyncIterable<TidingsEvent> {
  readonly state: State
  /** Why it ended, where it has. */
  readonly reason: Reason | undefined
  /** As the server knows the user; not before the first connection. */
  readonly user: string | undefined
  readonly device: string | undefined
  /** Up to where the log has been handled; not before that is known. */
  readonly position: number | undefined
  /** Calls `handler` for each event of a type: `order.shipped`, all that begin so: `chat.*`, or all: `*`. Returns what takes it off. */
  on(type: string, handler: (event: TidingsEvent) => unknown): () => void
  /** Calls `handler` with what is not an event. Returns what takes it off. */
  watch<K extends keyof Notices>(kind: K, handler: (notice: Notices[K]) => unknown): () => void
  join(room: string, options?: { durable?: boolean; presence?: boolean }): Promise<void>
  leave(room: string): Promise<void>
  /** Resolves when it is committed; nothing of it is known of an ephemeral event. */
  publish(to: string, type: string, data?: unknown, options?: PublishOptions): Promise<{ position?: number; id?: string }>
  /** Who is connected in a room. */
  presence(room: string): Promise<PresentUser[]>
  /** The rooms that this connection receives. */
  rooms(): Promise<Membership[]>
  members(room: string): Promise<{ user: string }[]>
  /** Starts again, where it has ended. */
  connect(): void
  /** Ends it. What has not been handled comes again. */
  close(): void
}
