/** What one person's app keeps over reloads: how far it has got, and what it shows. */

const KEPT = 40

export class Memory {
  /** In the order in which they are shown; what was not known to be sent when the page ended is stale. */
  entries
  #prefix
  #log

  constructor(user) {
    this.#prefix = `tidings-demo:${user}:`
    const { log, entries = [] } = JSON.parse(read(`${this.#prefix}entries`) ?? '{}')
    this.#log = log
    this.entries = entries
    for (const entry of entries) if (entry.position === undefined && !entry.refused) entry.stale = true
  }

  /** For the client: its own names, apart from the other person's. */
  get store() {
    return {
      get: (key) => read(this.#prefix + key),
      set: (key, value) => keep(this.#prefix + key, value),
    }
  }

  /** Forgets what came from another log; tells whether it did. */
  belongsTo(log) {
    const other = this.#log !== undefined && this.#log !== log
    if (other) this.entries = []
    this.#log = log
    return other
  }

  find(entry) {
    return this.entries.find(({ id, position }) => (id !== undefined && id === entry.id) || (position !== undefined && position === entry.position))
  }

  add(entry) {
    this.entries.push(entry)
    this.save()
  }

  save() {
    this.entries.splice(0, this.entries.length - KEPT)
    keep(`${this.#prefix}entries`, JSON.stringify({ log: this.#log, entries: this.entries }))
  }
}

/** Where there is no storage, everything is forgotten with the page. */
const instead = new Map()

function read(key) {
  try {
    return localStorage.getItem(key)
  } catch {
    return instead.get(key) ?? null
  }
}

function keep(key, value) {
  try {
    localStorage.setItem(key, value)
  } catch {
    instead.set(key, value)
  }
}
