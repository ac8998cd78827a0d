/** Says that somebody is typing, until they have written or are still. */

import { h, nameOf, write } from './dom.js'

const STILL = 3000

export function typing(person) {
  const words = h('span')
  const element = h('p', { class: 'typing' }, h('span', { class: 'dots', 'aria-hidden': 'true' }, h('i'), h('i'), h('i')), words)
  let timer

  function rest() {
    clearTimeout(timer)
    element.classList.remove('shown')
    write(words, '')
  }

  person.addEventListener('entry', rest)
  person.addEventListener('typing', ({ detail }) => {
    clearTimeout(timer)
    element.classList.add('shown')
    write(words, `${nameOf(detail)} is typing…`)
    timer = setTimeout(rest, STILL)
  })
  return element
}
