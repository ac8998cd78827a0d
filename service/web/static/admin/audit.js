import { field, h, input } from './dom.js'
import { listing } from './lists.js'
import { filters, head, listCard } from './parts.js'
import { moment } from './text.js'

const ACTIONS = [
  'token.revoke', 'revocation.lift', 'connection.disconnect', 'key.create', 'key.rotate', 'key.delete', 'device.forget',
  'user.erase', 'log.prune',
]

/** What admins did. */
export function audit(app) {
  const action = h('select', {}, h('option', { value: '' }, 'any'), ACTIONS.map((name) => h('option', {}, name)))
  const actor = input({ type: 'search', class: 'mono' })
  const subject = input({ type: 'search' })
  const list = listing(app, {
    label: 'What admins did', empty: 'Nothing of this kind is on record.', address: () => '/v1/audit',
    filters: () => ({ action: action.value, actor: actor.value.trim(), subject: subject.value.trim() }),
    columns: [
      { name: 'When', cell: ({ at }) => moment(at) },
      { name: 'By', cell: ({ actor: by }) => h('span', { class: 'mono' }, by) },
      { name: 'What', cell: ({ action: what }) => what },
      { name: 'Subject', kind: 'wide', cell: ({ subject: whom }) => whom },
      { name: 'Detail', kind: 'wide', cell: ({ detail }) => h('code', { class: 'clip' }, JSON.stringify(detail)) },
      { name: 'Request', cell: ({ request_id }) => h('span', { class: 'mono', title: request_id }, request_id.slice(0, 8)) },
    ],
  })
  const node = h('div', { class: 'stack' },
    head('Audit', 'What admins changed: who, what, when, and by which request. Newest first.'),
    filters('Filter the audit log', [field('What', action), field('By', actor), field('Subject', subject)], list.restart),
    listCard('Records', list))
  return { node, refresh: list.refresh }
}
