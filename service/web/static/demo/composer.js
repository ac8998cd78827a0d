/** Where a person writes. */

import { addressOf, h, nameOf } from './dom.js'

export class Composer {
  #person
  #to
  #text

  constructor(person) {
    this.#person = person
    const addresses = [`user:${person.other}`, 'room:lobby', 'room:orders', 'everyone']
    this.#to = h('fieldset', { class: 'to' }, h('legend', {}, 'To'), ...addresses.map((to) => this.#option(to)))
    this.#text = h('input', {
      type: 'text', name: `text-${person.user}`, 'aria-label': `What ${nameOf(person.user)} sends`, placeholder: 'Write something',
      maxlength: '500', autocomplete: 'off', enterkeyhint: 'send', oninput: () => this.#typed(),
    })
    const line = h('div', { class: 'line' }, this.#text, h('button', { class: 'primary' }, 'Send'))
    this.element = h('form', { class: 'composer', onsubmit: (event) => this.#send(event) }, this.#to, line)
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
}
