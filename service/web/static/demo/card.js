/** A person's app: who they are, how they are connected, what has come, and what they write. */

import { Composer } from './composer.js'
import { avatar, events, h, nameOf, write } from './dom.js'
import { Row } from './entry.js'
import { Rooms } from './rooms.js'
import { typing } from './typing.js'

const STATES = {
  connecting: 'connecting', 'catching-up': 'catching up', live: 'live', offline: 'offline',
  unauthorized: 'not allowed', closed: 'closed',
}

export class Card {
  #person
  #state = h('span', { class: 'state' })
  #button = h('button', { type: 'button', class: 'cut', onclick: () => this.#press() })
  #list
  #note = h('p', { class: 'note', role: 'status' })
  #rows = new Map()
  #missed

  constructor(person) {
    this.#person = person
    const name = nameOf(person.user)
    this.#list = h('ol', { class: 'entries', role: 'log', 'aria-label': `Events for ${name}`, tabindex: '0' })
    this.element = h('section', { class: 'person card', 'data-who': person.user, 'aria-label': name },
      h('header', {}, avatar(person.user), h('div', { class: 'name' }, h('h2', {}, name), this.#state), this.#bell(), this.#button),
      new Rooms(person).element, h('div', { class: 'feed' }, this.#list, typing(person)), this.#note, new Composer(person).element)
    person.addEventListener('state', () => this.#paint())
    person.addEventListener('reset', () => this.#reset())
    person.addEventListener('entry', ({ detail }) => this.#show(detail))
    this.#reset()
    this.#paint()
  }

  explain(words) {
    write(this.#note, words)
  }

  #bell() {
    const bell = h('tidings-bell')
    bell.client = this.#person.client
    bell.getToken = () => this.#person.token
    bell.render = ({ from, data }) => (from && data?.text ? `${nameOf(from)}: ${data.text}` : undefined)
    return bell
  }

  #press() {
    const { network, client, state } = this.#person
    if (state === 'closed' || state === 'unauthorized') client.connect()
    else if (network.cut) this.#person.restore()
    else this.#person.cut()
  }

  #paint() {
    const { state, network } = this.#person
    this.element.dataset.state = state
    this.element.toggleAttribute('data-cut', network.cut)
    write(this.#state, STATES[state])
    const over = state === 'closed' || state === 'unauthorized'
    write(this.#button, over ? 'Connect again' : network.cut ? 'Restore' : 'Cut the network')
  }

  #reset() {
    this.#rows.clear()
    this.#list.replaceChildren()
    for (const entry of this.#person.memory.entries) this.#add({ ...entry, replayed: false }, 0)
    this.#list.scrollTop = this.#list.scrollHeight
  }

  #show(entry) {
    const row = this.#rows.get(entry.id)
    if (row) return row.show(entry, this.#person.user)
    const { replay } = this.#person
    if (entry.replayed) this.#tellMissed(replay)
    this.#add(entry, entry.replayed ? replay.count : 0).classList.add('new')
    this.#list.scrollTo({ top: this.#list.scrollHeight, behavior: 'smooth' })
  }

  #add(entry, turn) {
    const row = new Row(entry, this.#person.user, turn)
    this.#rows.set(entry.id, row)
    this.#list.append(row.element)
    return row.element
  }

  /** Above what is replayed: how much that is, and how long it took. */
  #tellMissed({ count, took }) {
    if (count === 1) this.#list.append((this.#missed = h('li', { class: 'missed' })))
    write(this.#missed, `${events(count)} that ${nameOf(this.#person.user)} missed, replayed in ${Math.ceil(took)} ms`)
  }
}
