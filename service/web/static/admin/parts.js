import { button, field, form, h, input } from './dom.js'

/** What a section begins with. */
export function head(title, text, ...controls) {
  return h('div', { class: 'head' }, h('div', {}, h('h1', {}, title), h('p', { class: 'quiet' }, text)), controls)
}

export function card(title, ...content) {
  return h('section', { class: 'card stack' }, title && h('h2', {}, title), content)
}

/** A card with a table in it, its title and its pages above. */
export function listCard(title, list, { control, between } = {}) {
  return h('section', { class: 'card stack' },
    h('div', { class: 'row between' }, h('h2', {}, title), h('div', { class: 'row' }, list.pages, control)), between, list.node)
}

/** Asks for a name, and goes to the address that shows it. */
export function lookUp({ label, placeholder, value, section }) {
  const name = input({ type: 'search', placeholder, value, required: true })
  return form({ class: 'row look-up', role: 'search' }, () => {
    if (name.value.trim()) location.hash = to(section, name.value.trim())
  }, field(label, name), h('button', { type: 'submit', class: 'primary' }, 'Show'))
}

export const to = (section, name) => `#/${section}/${encodeURIComponent(name)}`
export const userLink = (user) => (user === null ? '–' : h('a', { href: to('users', user) }, user))
export const roomLink = (room) => h('a', { href: to('rooms', room) }, room)
export const eventLink = (position) => h('a', { class: 'mono', href: `#/events/${position}` }, position)

/** An address, which leads to whom it names. */
export function addressLink(address) {
  const [kind, ...name] = address.split(':')
  if (kind === 'user') return h('a', { href: to('users', name.join(':')) }, address)
  if (kind === 'room') return h('a', { href: to('rooms', name.join(':')) }, address)
  return address
}

export const badge = (text, kind = '') => h('span', { class: `badge ${kind}` }, text)

/** Filters of a list: what is typed counts once it is confirmed, or after a short rest. */
export function filters(label, fields, changed) {
  let timer
  const later = () => {
    clearTimeout(timer)
    timer = setTimeout(changed, 300)
  }
  const node = form({ class: 'row filters', role: 'search', 'aria-label': label, oninput: later }, changed, fields,
    button('Clear', () => {
      node.reset()
      changed()
    }, 'small'))
  return node
}

/** Names that can be had with one click, where nobody has typed any. */
export function suggestions(title, empty, section) {
  const list = h('ul', { class: 'chips', 'aria-label': title })
  let shown
  const node = h('section', { class: 'card stack' }, h('h2', {}, title), list)
  function show(names) {
    if (shown === names.join('\n')) return
    shown = names.join('\n')
    const items = names.map((name) => h('li', {}, h('a', { href: to(section, name) }, name)))
    list.replaceChildren(...(items.length ? items : [h('li', { class: 'quiet' }, empty)]))
  }
  return { node, show }
}

/** Says what an order to close sockets has come to. */
export function closed({ closed: n, complete }) {
  const sockets = n === 1 ? '1 connection was closed' : `${n} connections were closed`
  return complete ? `${sockets}; every instance has answered.`
    : `${sockets} so far; an instance has not answered yet and closes its own within about a second.`
}
