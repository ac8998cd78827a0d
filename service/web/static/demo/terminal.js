/** What to paste into a terminal. The key is not here: only the terminal has it. */

import { h, write } from './dom.js'

const EVENT = JSON.stringify({ to: 'user:alice', type: 'hello', data: { text: 'It works' } })

function commands() {
  const elsewhere = location.port === '8000' ? '' : ` --url ${location.origin}`
  return [
    ['With the command', `.venv/bin/tidings send user:alice hello '{"text": "It works"}'${elsewhere}`],
    ['From any backend, with the admin key that the terminal printed', `curl ${location.origin}/v1/events -H "Authorization: Bearer $KEY" -d '${EVENT}'`],
  ]
}

export function terminal() {
  return h('section', { class: 'terminal', 'aria-labelledby': 'terminal' },
    h('h2', { id: 'terminal' }, 'Now from your terminal'),
    h('p', { class: 'quiet' }, 'The same Alice, from where your own services are. It arrives above; close this page first, and it arrives when you come back.'),
    ...commands().map(([what, command]) => shown(what, command)))
}

function shown(what, command) {
  const copy = h('button', { type: 'button', 'aria-label': `Copy: ${what}`, onclick: () => void copied(copy, command) }, 'Copy')
  return h('div', { class: 'command' }, h('p', {}, what), h('pre', {}, h('code', {}, command)), copy)
}

async function copied(button, text) {
  const done = await navigator.clipboard.writeText(text).then(() => 'Copied', () => 'Select it')
  write(button, done)
  setTimeout(() => write(button, 'Copy'), 1500)
}
