/** The demonstration: two people before one service. */

import '/client/bell.js'
import { Card } from './demo/card.js'
import { Guide } from './demo/guide.js'
import { h } from './demo/dom.js'
import { Log } from './demo/log.js'
import { guardFetch } from './demo/network.js'
import { Person } from './demo/person.js'
import { terminal } from './demo/terminal.js'

const people = [new Person('alice', 'bob'), new Person('bob', 'alice')]
guardFetch((authorization) => people.some(({ network, token }) => network.cut && authorization === `Bearer ${token}`))

const cards = people.map((person) => new Card(person))
document.querySelector('main').append(
  new Log(people).element,
  h('div', { class: 'people' }, ...cards.map(({ element }) => element)),
  terminal(),
)
new Guide(people, cards).begin()
