/** One event on a person's list. */

import { addressOf, avatar, h, kindOf, nameOf, write } from './dom.js'

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' })

export class Row {
  #place = h('span', { class: 'place mono' })
  #fate = h('span', { class: 'fate' })
  #words

  /** `turn` is its place among those that come at once: they are shown one after the other. */
  constructor(entry, me, turn) {
    const mine = entry.from === me
    const sender = entry.from ? nameOf(entry.from) : 'API'
    const who = mine ? undefined : h('b', {}, sender)
    const to = h('span', { class: 'tag', 'data-kind': kindOf(entry.to) }, `to ${addressOf(entry.to, me)}`)
    const again = entry.replayed ? h('span', { class: 'tag again' }, 'replayed') : undefined
    const time = h('time', { datetime: entry.time }, CLOCK.format(new Date(entry.time)))
    const type = entry.type && entry.type !== 'message' ? h('span', { class: 'mono' }, entry.type) : undefined
    this.#words = h('p', { class: 'words' }, entry.text)
    const head = h('div', { class: 'about' }, ...[who, type, to, again].filter(Boolean))
    const foot = h('div', { class: 'about' }, time, this.#place, this.#fate)
    this.element = h('li', { class: mine ? 'entry mine' : 'entry', 'data-who': entry.from ?? 'api' },
      ...(mine ? [] : [entry.from ? avatar(entry.from) : h('span', { class: 'avatar', 'aria-hidden': 'true' }, '{ }')]),
      h('div', { class: 'bubble' }, head, this.#words, foot))
    this.element.style.setProperty('--turn', turn)
    this.show(entry, me)
  }

  show(entry, me) {
    this.element.classList.toggle('recalled', Boolean(entry.recalled))
    if (entry.recalled) write(this.#words, 'taken back')
    write(this.#place, entry.position === undefined ? '' : `#${entry.position}`)
    const [state, words] = entry.from === me ? fateOf(entry) : ['', '']
    this.#fate.dataset.state = state
    write(this.#fate, words)
  }
}

/** Returns how far what was sent has got, as far as its sender knows. */
function fateOf({ position, seen, refused, to }) {
  if (refused) return ['refused', `not sent: ${refused}`]
  if (position === undefined) return ['waiting', 'not sent yet']
  if (seen) return ['seen', `${addressOf(to)} has it`]
  return ['logged', 'in the log']
}
