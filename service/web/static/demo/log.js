/** The log as these two know it: what was appended, and up to where each of them has everything. */

import { addressOf, events, h, kindOf, nameOf, write } from './dom.js'

const SHOWN = 40

export class Log {
  #people
  #cells = new Map()
  #row = h('ol', { class: 'cells', 'aria-label': 'Positions, newest last' })
  #marks
  #words

  constructor(people) {
    this.#people = people
    this.#marks = people.map(({ user }) => h('span', { class: 'mark', 'data-who': user, 'aria-hidden': 'true' }, nameOf(user).charAt(0)))
    this.#words = people.map(({ user }) => h('span', { 'data-who': user }))
    this.element = h('section', { class: 'log', 'aria-labelledby': 'log' },
      h('div', { class: 'about' }, h('h2', { id: 'log' }, 'The log'), h('p', { class: 'standing', role: 'status' }, ...this.#words)),
      h('div', { class: 'strip' }, this.#row, h('div', { class: 'marks' }, ...this.#marks)))
    people.forEach((person, which) => this.#attend(person, which))
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
      const cell = made(entry)
      this.#cells.set(position, { entry, cell })
      const next = [...this.#cells.keys()].filter((other) => other > position).sort((a, b) => a - b)[0]
      this.#row.insertBefore(cell, this.#cells.get(next)?.cell ?? null)
      if (this.#cells.size > SHOWN) this.#forget()
    }
    this.#place()
  }

  #forget() {
    const oldest = Math.min(...this.#cells.keys())
    this.#cells.get(oldest).cell.remove()
    this.#cells.delete(oldest)
  }

  /** A person's mark stands behind the last event before those that have not come. */
  #place() {
    const all = [...this.#cells.values()].sort((a, b) => a.entry.position - b.entry.position)
    this.#people.forEach((person, which) => {
      const missed = all.filter(({ entry }) => person.misses(entry))
      for (const { cell, entry } of all) cell.toggleAttribute(`data-not-${person.user}`, person.misses(entry))
      this.#marks[which].style.setProperty('--behind', missed.length ? all.length - all.indexOf(missed[0]) : 0)
      const words = missed.length ? `has ${events(missed.length)} to come` : 'has everything'
      write(this.#words[which], `${nameOf(person.user)} ${words}`)
    })
  }
}

function made({ position, to }) {
  const title = `to ${addressOf(to)}`
  return h('li', { 'data-kind': kindOf(to), title }, h('span', { class: 'mono' }, String(position)), h('small', {}, addressOf(to)))
}
