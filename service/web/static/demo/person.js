/** One person: a client of the service, what it has brought, and what was sent through it. Nothing here draws. */

import { connect } from '/client/index.js'
import { Memory } from './memory.js'
import { Network } from './network.js'

const ROOMS = ['lobby', 'orders']
const TYPING = 2000

export class Person extends EventTarget {
  network = new Network()
  memory
  client
  token = ''
  rooms = new Map(ROOMS.map((room) => [room, { joined: false, users: [] }]))
  /** What this connection began with: how much was replayed, and whether another one was lost before. */
  replay = undefined
  /** Why there is no token, where the service has said so. */
  trouble = ''
  #said = 0
  #wasLive = false

  constructor(user, other) {
    super()
    this.user = user
    this.other = other
    this.memory = new Memory(user)
    this.client = connect({
      url: location.origin,
      getToken: () => this.#getToken(),
      store: this.memory.store,
      presence: true,
      WebSocket: this.network.WebSocket,
      backoff: { max: 5000 },
      timeout: 600_000, // who is cut off may take their time
    })
    this.#listen()
  }

  /** As a person would say it; an attempt while the network is cut is none. */
  get state() {
    const { state } = this.client
    return this.network.cut && state !== 'closed' && state !== 'unauthorized' ? 'offline' : state
  }

  /** Tells whether an event is for this person and has not come. */
  misses({ position, to }) {
    const isMine = to === 'everyone' || to === `user:${this.user}` || this.rooms.get(to.slice('room:'.length))?.joined
    return Boolean(isMine) && this.state !== 'live' && position > (this.client.position ?? Infinity)
  }

  cut() {
    this.network.sever()
    this.#tell('state')
  }

  restore() {
    this.network.restore()
    this.#tell('state')
  }

  /** Sends a text; it is shown at once, and says itself how far it has got. */
  say(to, text, id = crypto.randomUUID()) {
    const entry = { id, to, text, from: this.user, time: new Date().toISOString() }
    this.memory.add(entry)
    this.#tell('entry', entry)
    return this.#send(entry)
  }

  /** Lets the other side know that something is being typed; not stored, not repeated. */
  type(to) {
    if (this.client.state !== 'live' || Date.now() < this.#said + TYPING) return
    this.#said = Date.now()
    this.#whisper(to, 'typing', {})
  }

  async toggle(room) {
    const { joined } = this.rooms.get(room)
    const done = joined ? this.client.leave(room) : this.client.join(room, { presence: true })
    await done.catch(() => {}) // it shows what is
    await this.#look()
  }

  async #getToken() {
    if (this.network.cut) throw new Error('the network is cut')
    const body = JSON.stringify({ user: this.user })
    const answer = await fetch('/demo/token', { method: 'POST', headers: { 'content-type': 'application/json' }, body })
    const told = await answer.json()
    if (!answer.ok) throw new Error((this.trouble = told.detail))
    return (this.token = told.token)
  }

  #listen() {
    const { client } = this
    client.on('*', (event) => this.#hear(event))
    client.watch('gap', () => this.#tell('state'))
    client.watch('recalled', ({ recalled }) => this.#takeBack(recalled))
    client.watch('room', () => this.#look())
    client.watch('presence', () => this.#look())
    client.watch('state', ({ state }) => this.#change(state))
  }

  #change(state) {
    if (state === 'catching-up') this.#welcome()
    if (state === 'live') this.#arrive()
    this.#tell('state')
  }

  #welcome() {
    const { log, head } = this.network.welcome
    this.trouble = ''
    this.replay = { head, count: 0, took: 0, isReturn: this.#wasLive }
    if (this.memory.belongsTo(log)) this.#tell('reset')
  }

  /** Looks who is there, and sends what an earlier run of the page could not: accepted once, by its id. */
  #arrive() {
    this.#wasLive = true
    void this.#look(true)
    for (const entry of this.memory.entries) if (entry.stale) void this.#send(entry)
  }

  #hear(event) {
    if (event.ephemeral) return this.#overhear(event)
    const known = this.memory.find(event)
    if (known) return this.#placed(known, event.position)
    const { id, position, to, type, time, from } = event
    const replayed = this.replay !== undefined && position <= this.replay.head
    const entry = { id, position, to, type, time, from, text: textOf(event), replayed }
    if (replayed) this.#count()
    this.memory.add(entry)
    this.#tell('entry', entry)
    if (from && to === `user:${this.user}`) this.#whisper(`user:${from}`, 'seen', { position })
  }

  #count() {
    this.replay.count++
    this.replay.took = performance.now() - this.network.begun
  }

  #overhear({ type, from, data }) {
    if (from === this.user) return
    if (type === 'typing') this.#tell('typing', from)
    if (type !== 'seen') return
    const entry = this.memory.entries.find((sent) => sent.from === this.user && sent.position === data.position)
    if (entry) this.#note(entry, { seen: true })
  }

  async #send(entry) {
    delete entry.stale
    try {
      const { position } = await this.client.publish(entry.to, 'message', { text: entry.text }, { id: entry.id })
      this.#placed(entry, position)
    } catch (error) {
      this.#note(entry, { refused: error.message })
    }
  }

  #placed(entry, position) {
    if (entry.position === undefined) this.#note(entry, { position })
  }

  #note(entry, more) {
    Object.assign(entry, more)
    this.memory.save()
    this.#tell('entry', entry)
  }

  #takeBack(position) {
    const entry = this.memory.entries.find((kept) => kept.position === position)
    if (entry) this.#note(entry, { recalled: true })
  }

  #whisper(to, type, data) {
    this.client.publish(to, type, data, { ephemeral: true, echo: false }).catch(() => {}) // it may be lost
  }

  /** Asks which rooms this is in and who is there; from anew where the connection is. */
  async #look(anew = false) {
    try {
      const mine = new Set((await this.client.rooms()).map(({ room }) => room))
      for (const room of mine) if (!this.rooms.has(room)) this.rooms.set(room, { joined: true, users: [] })
      for (const [room, shown] of this.rooms) {
        shown.joined = mine.has(room)
        if (anew && shown.joined) await this.client.join(room, { presence: true })
        const there = shown.joined ? (await this.client.presence(room)).map(({ user }) => user) : []
        shown.users = shown.joined ? [...new Set([this.user, ...there])].sort() : [] // nobody is told of themselves
      }
      this.#tell('rooms')
    } catch {
      // The connection was lost: the next one looks again.
    }
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }
}

/** Returns what a person would read of an event. */
function textOf({ type, data }) {
  const said = data?.text ?? data?.title ?? data
  if (said === null || said === undefined) return type
  return typeof said === 'object' ? JSON.stringify(said) : String(said)
}
