const SVG = 'http://www.w3.org/2000/svg'

/** Builds an element. What begins with `on` is a listener; what is null, undefined or false is left out. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children)
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children)
}

const isThere = (value) => value !== null && value !== undefined && value !== false

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {}).filter(([, value]) => isThere(value))) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...children.flat().filter(isThere))
  return element
}

/** Changes a text only where it differs, so that a selection in it lives on. */
export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text
}

export function button(text, run, kind = '') {
  return h('button', { type: 'button', class: kind, onclick: run }, text)
}

/** A control with its label, and what may help to fill it in. */
export function field(label, control, hint) {
  const id = control.id ||= `control-${(controls += 1)}`
  if (hint) control.setAttribute('aria-describedby', `${id}-hint`)
  return h('div', { class: 'field' }, h('label', { for: id, class: 'label' }, label), control,
    hint && h('span', { id: `${id}-hint`, class: 'hint' }, hint))
}

let controls = 0

export function input(attributes) {
  return h('input', { type: 'text', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', ...attributes })
}

/** A form that stays on the page: `run` is called, and its button rests meanwhile. */
export function form(attributes, run, ...children) {
  const node = h('form', { ...attributes, novalidate: true }, ...children)
  let busy = false
  node.addEventListener('submit', async (event) => {
    event.preventDefault()
    if (busy) return
    busy = true
    node.setAttribute('aria-busy', 'true')
    try {
      await run()
    } finally {
      busy = false
      node.removeAttribute('aria-busy')
    }
  })
  return node
}
