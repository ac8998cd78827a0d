import { path } from './api.js'
import { reveal } from './dialogs.js'
import { field, form, h, input } from './dom.js'
import { listing } from './lists.js'
import { badge, head, listCard } from './parts.js'
import { count, moment } from './text.js'

const SCOPES = { publish: 'send events', read: 'look', tokens: 'sign clients’ tokens', admin: 'everything' }
const DAY = 86_400_000

/** API keys: who may call the service, and what. */
export function keys(app) {
  const list = listing(app, {
    label: 'API keys', empty: 'There is no API key yet.', address: () => '/v1/keys',
    columns: [
      { name: 'Name', kind: 'wide', cell: ({ name, id }) => [h('b', {}, name), ' ', h('small', { class: 'mono quiet' }, id)] },
      { name: 'May', cell: ({ scopes }) => scopes.flatMap((scope) => [badge(scope, scope === 'admin' ? 'warn' : ''), ' ']) },
      { name: 'Reaches', cell: ({ addresses }) => addresses?.join(', ') ?? 'any address' },
      { name: 'Limits', cell: limits },
      { name: 'Last used', cell: ({ last_used_at }) => moment(last_used_at) },
      { name: 'Expires', cell: ({ expires_at }) => (expires_at ? moment(expires_at) : 'never') },
    ],
    actions: [
      { text: 'Rotate', named: ({ name }) => name, run: (key) => rotate(app, key) },
      { text: 'Delete', kind: 'danger', named: ({ name }) => name, run: (key) => remove(app, key) },
    ],
  })
  const node = h('div', { class: 'stack' },
    head('API keys', 'Who may call the service, and for what.'), creator(app), listCard('Keys', list))
  return { node, refresh: list.refresh }
}

function limits({ rate, burst, quota, former_until }) {
  const told = [
    rate !== null && `${count(rate)}/s`, burst !== null && `${count(burst)} at once`, quota !== null && `${count(quota)} a day`,
    former_until !== null && new Date(former_until) > new Date() && `former secret until ${moment(former_until)}`,
  ].filter(Boolean)
  return told.join(', ') || '–'
}

const rotate = (app, { id, name }) => app.sure({
  title: `Give “${name}” another secret?`, verb: 'Rotate', word: name,
  text: 'The one that it has stays good for a day, so that whoever uses it can change over. One before that ends now.',
}, async () => {
  const { key } = await app.api.post(path`/v1/keys/${id}/rotate`, {})
  await reveal({ title: `The new secret of “${name}”`, text: 'It is shown this once. Keep it where the program reads its secrets.', secret: key })
})

const remove = (app, { id, name }) => app.sure({
  title: `Delete the key “${name}”?`, verb: 'Delete', word: name, text: 'Whoever uses it is refused from then on.',
}, async () => {
  await app.api.delete(path`/v1/keys/${id}`)
  return `The key “${name}” is deleted.`
})

function creator(app) {
  const name = input({ required: true, placeholder: 'shop' })
  const scopes = Object.keys(SCOPES).map((scope) => h('input', { type: 'checkbox', value: scope, checked: scope === 'publish' }))
  const addresses = input({ class: 'mono', placeholder: 'user:*, room:orders.*' })
  const days = h('select', {}, [['', 'never'], [30, 'in 30 days'], [90, 'in 90 days'], [365, 'in a year']].map(([value, text]) => h('option', { value }, text)))
  const rate = input({ type: 'number', min: 0.001, step: 'any' })
  const quota = input({ type: 'number', min: 1 })
  const node = form({ class: 'stack' }, () => app.act(async () => {
    const patterns = addresses.value.split(/[\s,]+/).filter(Boolean)
    const made = await app.api.post('/v1/keys', {
      name: name.value.trim(),
      scopes: scopes.filter(({ checked }) => checked).map(({ value }) => value),
      addresses: patterns.length ? patterns : null,
      expires_at: days.value ? new Date(Date.now() + days.value * DAY).toISOString() : null,
      rate: rate.value ? rate.valueAsNumber : null,
      quota: quota.value ? quota.valueAsNumber : null,
    })
    await reveal({ title: `The key “${name.value.trim()}”`, text: 'It is shown this once. Keep it where the program reads its secrets.', secret: made.key })
    node.reset()
  }),
  h('div', { class: 'row fields' }, field('Name', name), field('Reaches', addresses, 'Addresses, or beginnings with *; any if empty'),
    field('Expires', days), field('Events a second', rate), field('Events a day', quota)),
  h('fieldset', { class: 'row' }, h('legend', { class: 'label' }, 'May'), scopes.map((box) =>
    h('label', { class: 'check' }, box, h('span', {}, h('b', {}, box.value), h('small', { class: 'quiet' }, ` ${SCOPES[box.value]}`))))),
  h('div', { class: 'row end' }, h('button', { type: 'submit', class: 'primary' }, 'Create')))
  return h('details', { class: 'card' }, h('summary', {}, 'Create a key'), node)
}
