/** The rooms of a person: in or out, and who else is there. */

import { avatar, h, nameOf } from './dom.js'

export class Rooms {
  #person
  #chips = new Map()

  constructor(person) {
    this.#person = person
    this.element = h('div', { class: 'rooms', role: 'group', 'aria-label': `Rooms of ${nameOf(person.user)}` })
    person.addEventListener('rooms', () => this.#paint())
    this.#paint()
  }

  #paint() {
    for (const [room, { joined, users }] of this.#person.rooms) {
      const chip = this.#chips.get(room) ?? this.#make(room)
      chip.setAttribute('aria-pressed', String(joined))
      chip.setAttribute('aria-label', joined ? `Room ${room}, there: ${users.map(nameOf).join(', ') || 'nobody'}` : `Join room ${room}`)
      chip.lastChild.replaceChildren(...(joined ? users.slice(0, 3).map(avatar) : ['join']))
    }
  }

  #make(room) {
    const toggle = () => void this.#person.toggle(room)
    const chip = h('button', { type: 'button', class: 'chip', onclick: toggle }, h('span', {}, `#${room}`), h('span', { class: 'there' }))
    this.#chips.set(room, chip)
    this.element.append(chip)
    return chip
  }
}
