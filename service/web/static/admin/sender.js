import { Problem } from './api.js'
import { field, form, h, input } from './dom.js'
import { eventLink } from './parts.js'

/** Sends an event by hand. */
export function sender(app) {
  const to = input({ class: 'mono', value: 'user:alice', required: true })
  const type = input({ class: 'mono', value: 'test', required: true })
  const data = h('textarea', { class: 'mono', rows: 2, spellcheck: 'false' }, '{"text": "Hello"}')
  const node = form({ class: 'stack' }, async () => {
    await app.act(async () => {
      const { events } = await app.api.send('POST', '/v1/events', body(to.value.trim(), type.value, data.value))
      return ['Sent to ', events[0].to, ' at position ', eventLink(events[0].position), '.']
    })
  },
  h('div', { class: 'row fields' }, field('To', to, 'user:<id>, room:<name> or everyone'), field('Type', type), field('Data', data, 'JSON')),
  h('div', { class: 'row end' }, h('button', { type: 'submit', class: 'primary' }, 'Send')))
  return h('details', { class: 'card' }, h('summary', {}, 'Send a test event'), node)
}

/** The data goes out as it was typed: JavaScript would round its numbers. */
function body(to, type, data) {
  const text = data.trim() || 'null'
  try {
    JSON.parse(text)
  } catch {
    throw new Problem(0, 'malformed', 'the data is not JSON')
  }
  return `{"to":${JSON.stringify(to)},"type":${JSON.stringify(type)},"data":${text}}`
}
