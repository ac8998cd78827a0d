/** Where a person writes, and reads that somebody else does. */

import { addressOf, h, nameOf, write } from './dom.js'

const STILL = 3000

export class Composer {
  #person
  #to
  #text
  #typing = h('p', { class: 'typing', role: 'status' })
  #timer

  constructor(person) {
    this.#person = person
    const addresses = [`user:${person.other}`, 'room:lobby', 'room:orders', 'everyone']
    this.#to = h('fieldset', { class: 'to' }, h('legend', {}, 'To'), ...addresses.map((to) => this.#option(to)))
    const label = `What ${nameOf(person.user)} sends`
    this.#text = h('input', { type: 'text', name: `text-${person.user}`, 'aria-label': label, placeholder: 'Write something', maxlength: '500', autocomplete: 'off', enterkeyhint: 'send', oninput: () => this.#typed() })
    this.element = h('form', { class: 'composer', onsubmit: (event) => this.#send(event) },
      this.#typing, this.#to, h('div', { class: 'line' }, this.#text, h('button', { class: 'primary' }, 'Send')))
    person.addEventListener('typing', ({ detail }) => this.#hear(detail))
    person.addEventListener('entry', () => this.#quiet())
  }

  get #address() {
    return this.#to.querySelector(':checked').value
  }

  #option(to) {
    const { user, other } = this.#person
    const radio = h('input', { type: 'radio', name: `to-${user}`, value: to, checked: to === `user:${other}` })
    return h('label', {}, radio, h('span', {}, addressOf(to)))
  }

  #typed() {
    if (this.#text.value) this.#person.type(this.#address)
  }

  #send(event) {
    event.preventDefault()
    const text = this.#text.value.trim()
    if (text) void this.#person.say(this.#address, text)
    this.#text.value = ''
    this.#text.focus()
  }

  #hear(user) {
    clearTimeout(this.#timer)
    write(this.#typing, `${nameOf(user)} is typing…`)
    this.#timer = setTimeout(() => this.#quiet(), STILL)
  }

  #quiet() {
    clearTimeout(this.#timer)
    write(this.#typing, '')
  }
}
