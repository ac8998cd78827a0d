/** An inbox as one list and one number, both by the server's count: nothing here knows of a page. */

/** An event of the inbox. */
export interface Item {
  position: number
  id?: string
  to: string
  type: string
  data: unknown
  time: string
  from?: string
  read: boolean
}

/** How many events are unread at a position of the log; `more` where the server has not counted all. */
export interface Badge {
  unread: number
  more: boolean
  position: number
}

/** What changes an inbox after it was asked for. */
export type Notice =
  | { kind: 'event'; position: number; item: Item }
  | { kind: 'read'; position: number; unread: number; more: boolean; upTo: number; positions: number[] }
  | { kind: 'recalled'; position: number; recalled: number }

/** Calls the service: GET, or POST where there is a body; rejects unless it answers 2xx. */
export type Call = (path: string, body?: object) => Promise<any>

export const PAGE = 20
/** What is kept while nobody looks, and while somebody does: the rest is asked for again. */
const KEPT = { hidden: PAGE, shown: 1000 }
/** How many pages that turn out empty are passed over at once. */
const EMPTY_PAGES = 5

/** Return the badge after a notice: what the server counted is right, and each event after it is one more. */
export function counted(badge: Badge, notice: Notice): Badge {
  const { position } = notice
  if (position <= badge.position) return badge
  if (notice.kind === 'read') return { unread: notice.unread, more: notice.more, position }
  return notice.kind === 'event' ? { ...badge, unread: badge.unread + 1, position } : badge
}

/** Return the list, newest first, after a notice. */
export function listed(items: Item[], notice: Notice): Item[] {
  if (notice.kind === 'recalled') return items.filter((item) => item.position !== notice.recalled)
  if (notice.kind === 'read') return items.map((item) => (covers(notice, item) ? { ...item, read: true } : item))
  if (items.some((item) => item.position === notice.position)) return items
  return [...items, notice.item].sort((a, b) => b.position - a.position)
}

function covers(notice: Notice & { kind: 'read' }, { position, read }: Item): boolean {
  return !read && (position <= notice.upTo || notice.positions.includes(position))
}

/** The newest part of a user's inbox, kept up to date by notices. */
export class Inbox {
  items: Item[] = []
  badge: Badge = { unread: 0, more: false, position: 0 }
  state: 'new' | 'loading' | 'ready' | 'failed' = 'new'
  hasMore = false
  #next: string | null = null
  #flights = new Set<Notice[]>()
  #call: Call
  #changed: () => void

  constructor(call: Call, changed: () => void) {
    this.#call = call
    this.#changed = changed
  }

  /** Take in what has come by the socket. */
  note(notice: Notice): void {
    for (const flight of this.#flights) flight.push(notice)
    const known = notice.kind === 'recalled' && this.items.find((item) => item.position === notice.recalled)
    this.badge = counted(this.badge, notice)
    // Another count will follow; until then this is nearer to it.
    if (known && !known.read) this.badge.unread = Math.max(0, this.badge.unread - 1)
    if (this.state !== 'new') this.#show(listed(this.items, notice), KEPT.shown)
    this.#changed()
  }

  /** Ask how many are unread; tells whether it was another number than that shown. */
  async count(): Promise<boolean> {
    const [answer, later] = await this.#during(() => this.#call('/v1/inbox/unread'))
    const before = this.badge
    this.#counted(answer, later)
    return before.unread !== this.badge.unread
  }

  /** Read the newest part of the list anew, as much of it as is shown. */
  async load(): Promise<void> {
    if (this.state !== 'ready') this.state = 'loading'
    this.#changed()
    await this.#read(`limit=${Math.max(PAGE, this.items.length)}`, () => [])
  }

  /** Read the next page. */
  async more(): Promise<void> {
    if (this.hasMore) await this.#read(`limit=${PAGE}&before=${this.#next}`, () => this.items)
  }

  /** Mark events as read: at once on the screen, and in the count once the server says so. */
  async read(...positions: number[]): Promise<void> {
    await this.#mark({ positions }, 0, positions)
  }

  /** Mark everything that is in the list, or older, as read. */
  async readAll(): Promise<void> {
    const upTo = this.items[0]?.position
    if (upTo !== undefined) await this.#mark({ up_to: upTo }, upTo, [])
  }

  /** Forget all but the newest: nobody looks. */
  rest(): void {
    this.#show(this.items, KEPT.hidden)
  }

  async #mark(body: object, upTo: number, positions: number[]): Promise<void> {
    const read = { kind: 'read', position: 0, unread: 0, more: false, upTo, positions } as const
    const before = this.items
    this.items = listed(before, read)
    this.#changed()
    try {
      const answer = await this.#call('/v1/inbox/read', body)
      if (answer.position !== null) this.note({ ...read, ...answer })
    } catch (error) {
      const unread = new Set(before.filter((item) => !item.read).map((item) => item.position))
      this.items = this.items.map((item) => (unread.has(item.position) ? { ...item, read: false } : item))
      throw error
    } finally {
      this.#changed()
    }
  }

  async #read(query: string, kept: () => Item[]): Promise<void> {
    try {
      const [page, later] = await this.#during(() => this.#page(query))
      this.#next = page.next_cursor
      this.hasMore = page.has_more
      this.state = 'ready'
      const items: Item[] = [...kept(), ...page.data]
      this.#show(later.reduce(listed, items), KEPT.shown)
    } catch (error) {
      if (this.state !== 'ready') this.state = 'failed'
      throw error
    } finally {
      this.#changed()
    }
  }

  /** Ask for a page; one may be empty and still have more behind it. */
  async #page(query: string): Promise<any> {
    for (let left = EMPTY_PAGES; ; left -= 1) {
      const page = await this.#call(`/v1/inbox?${query}`)
      if (page.data.length || !page.has_more || !left) return { ...page, data: page.data.map(itemOf) }
      query = `limit=${PAGE}&before=${page.next_cursor}`
    }
  }

  /** Ask, and return the answer with what came meanwhile: the answer may be older than that, or newer. */
  async #during(ask: () => Promise<any>): Promise<[any, Notice[]]> {
    const later: Notice[] = []
    this.#flights.add(later)
    try {
      return [await ask(), later]
    } finally {
      this.#flights.delete(later)
    }
  }

  #counted({ unread, more = false, position }: Badge, later: Notice[]): void {
    this.badge = later.reduce(counted, { unread, more, position })
    this.#changed()
  }

  #show(items: Item[], bound: number): void {
    if (items.length > bound) {
      items = items.slice(0, bound)
      this.hasMore = true
      this.#next = String(items.at(-1)?.position)
    }
    this.items = items
  }
}

/** Return an item for an event as the service writes it: `event` is its type. */
function itemOf({ event, ...rest }: { event: string } & Omit<Item, 'type'>): Item {
  return { ...rest, type: event }
}
