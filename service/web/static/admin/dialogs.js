import { button, field, form, h, input } from './dom.js'

/** Shows a dialog; resolves once it is closed, with what it was closed with. */
function show(title, content, first) {
  const node = h('dialog', { 'aria-labelledby': 'dialog-title' }, h('h2', { id: 'dialog-title' }, title), content)
  document.body.append(node)
  node.showModal()
  first.focus()
  return new Promise((resolve) => {
    node.addEventListener('close', () => {
      node.remove()
      resolve(node.returnValue)
    })
  })
}

const closing = (value) => (event) => event.target.closest('dialog').close(value)

/** Asks again. With `word`, what is meant has to be typed. */
export async function confirm({ title, text, verb, word }) {
  const go = h('button', { type: 'submit', class: 'danger solid', disabled: Boolean(word) }, verb)
  const typed = word && input({ 'aria-describedby': 'dialog-word', oninput: () => (go.disabled = typed.value !== word) })
  const keep = button('Cancel', closing(''))
  const node = form({ class: 'stack' }, () => go.closest('dialog').close('yes'),
    h('p', {}, text),
    word && h('p', { id: 'dialog-word' }, 'This is production. To go on, type ', h('code', {}, word)),
    word && field('Type it here', typed),
    h('div', { class: 'row end' }, keep, go))
  return (await show(title, node, typed || keep)) === 'yes'
}

/** Shows a secret this once. */
export async function reveal({ title, text, secret }) {
  const shown = input({ class: 'mono', readonly: true, 'aria-label': 'The key' })
  shown.value = secret
  const done = h('span', { class: 'quiet', role: 'status' })
  const copy = button('Copy', async () => {
    shown.select()
    done.textContent = (await copied(secret)) ? 'Copied' : 'Press Ctrl+C: the browser does not let the page copy'
  })
  const node = h('div', { class: 'stack' },
    h('p', {}, text),
    h('div', { class: 'row' }, shown, copy),
    h('div', { class: 'row between' }, done, button('I have stored it', closing(''), 'primary')))
  await show(title, node, copy)
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return false
  }
}
