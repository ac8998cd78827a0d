/** The log as these two know it: what was appended, and up to where each of them has everything. */

import { addressOf, events, h, kindOf, nameOf, write } from './dom.js'

const SHOWN = 60

export class Log {
  #people
  /** By position: the event, and what is drawn of it. */
  #cells = new Map()
  #row = h('ol', { class: 'cells' })
  #strip
  #marks
  #words

  constructor(people) {
    this.#people = people
    this.#marks = people.map(({ user }) => h('span', { class: 'mark', 'data-who': user, 'aria-hidden': 'true' }, h('span', {}, nameOf(user).charAt(0))))
    this.#words = people.map(({ user }) => h('span', { 'data-who': user }))
    this.#strip = h('div', { class: 'strip', tabindex: '0', role: 'group', 'aria-label': 'Events by position, newest last' },
      h('div', { class: 'track' }, this.#row, ...this.#marks))
    this.element = h('section', { class: 'log', 'aria-labelledby': 'log' },
      h('h2', { id: 'log' }, 'The log'),
      h('p', { class: 'standing' }, ...this.#words),
      this.#strip)
    for (const person of people) this.#attend(person)
    this.#fill()
  }

  #attend(person) {
    person.addEventListener('entry', ({ detail }) => this.#append(detail))
    person.addEventListener('state', () => this.#place())
    person.addEventListener('reset', () => this.#fill())
  }

  #fill() {
    this.#cells.clear()
    this.#row.replaceChildren()
    for (const { memory } of this.#people) memory.entries.forEach((entry) => this.#append(entry))
    this.#place()
  }

  #append(entry) {
    const { position } = entry
    if (position !== undefined && !this.#cells.has(position)) {
      const after = this.#sorted().find((cell) => cell.entry.position > position)
      const drawn = made(entry)
      this.#cells.set(position, { entry, drawn })
      this.#row.insertBefore(drawn, after?.drawn ?? null)
      if (this.#cells.size > SHOWN) this.#forget()
      this.#strip.scrollTo({ left: this.#strip.scrollWidth, behavior: 'smooth' })
    }
    this.#place()
  }

  #sorted() {
    return [...this.#cells.values()].sort((a, b) => a.entry.position - b.entry.position)
  }

  #forget() {
    const [{ entry, drawn }] = this.#sorted()
    drawn.remove()
    this.#cells.delete(entry.position)
  }

  /** A person's mark stands before the first event that is for them and has not come. */
  #place() {
    const all = this.#sorted()
    this.#people.forEach((person, which) => {
      for (const { entry, drawn } of all) drawn.toggleAttribute(`data-not-${person.user}`, person.misses(entry))
      const first = all.findIndex(({ entry }) => person.misses(entry))
      const count = all.filter(({ entry }) => person.misses(entry)).length
      this.#marks[which].style.setProperty('--at', first < 0 ? all.length : first)
      write(this.#words[which], `${nameOf(person.user)} ${count ? `has ${events(count)} to come` : 'has everything'}`)
    })
  }
}

function made({ position, to }) {
  const who = addressOf(to)
  return h('li', { 'data-kind': kindOf(to), title: `#${position} to ${who}` }, h('span', { class: 'mono' }, `#${position}`), h('small', {}, `to ${who}`))
}
