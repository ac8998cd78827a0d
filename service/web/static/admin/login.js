import { Api, Problem } from './api.js'
import { field, form, h, input, say } from './dom.js'

/** Asks for the key, until one is good; it is handed on in an `Api`, and the field is emptied. */
export function login(opened, reason = '') {
  const key = input({ type: 'password', id: 'key', required: true })
  const note = h('p', { class: 'note-line', role: 'alert' }, reason)
  const go = h('button', { type: 'submit', class: 'primary' }, 'Open')

  async function enter() {
    say(note, '')
    try {
      const api = new Api(key.value.trim())
      await api.get('/v1/connections?limit=1')
      key.value = ''
      opened(api)
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem
      note.classList.add('bad')
      say(note, why(problem))
      key.select()
    }
  }

  queueMicrotask(() => key.focus())
  return h('main', { class: 'login', id: 'main' },
    h('div', { class: 'card' },
      h('h1', {}, 'Admin'),
      h('p', { class: 'quiet' }, 'Watch the service, find out where an event is, take access away.'),
      form({ class: 'stack' }, enter,
        field('Admin key', key, 'TIDINGS_ADMIN_KEY, or an API key with the scope admin. It stays in this page’s memory: closing or reloading the page forgets it.'),
        go, note)))
}

function why(problem) {
  if (problem.status === 401) return 'This key is not accepted. Look for blanks or missing characters at its ends.'
  if (problem.status === 403) return 'This key is good, but it does not have the scope admin.'
  return `That did not work: ${problem.message}.`
}
