/** Elements, made one by one: the page's policy allows no HTML in strings. */

export function h(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else if (typeof value === 'boolean') element.toggleAttribute(name, value)
    else if (value !== undefined) element.setAttribute(name, value)
  }
  element.append(...inside.filter((part) => part !== undefined))
  return element
}

/** Writes only what differs: what reads the page aloud then repeats nothing. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text
}

export const nameOf = (user) => user.charAt(0).toUpperCase() + user.slice(1)

export function avatar(user) {
  return h('span', { class: 'avatar', 'data-who': user, 'aria-hidden': 'true' }, nameOf(user).charAt(0))
}

/** Returns an address in words, as `me` sees it. */
export function addressOf(to, me) {
  if (to === 'everyone') return 'everyone'
  const name = to.slice(to.indexOf(':') + 1)
  if (to.startsWith('room:')) return `#${name}`
  return name === me ? 'you' : nameOf(name)
}

export const kindOf = (to) => to.split(':', 1)[0]

export const events = (count) => (count === 1 ? '1 event' : `${count} events`)
