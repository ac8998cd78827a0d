import { path } from './api.js'
import { field, form, h, input } from './dom.js'
import { listing } from './lists.js'
import { badge, card, closed, head, listCard, userLink } from './parts.js'
import { count, moment } from './text.js'

/** Takes tokens back, and shows which are. */
export function access(app) {
  const list = listing(app, {
    label: 'Revocations in force', empty: 'No revocation is in force.', address: () => '/v1/revocations',
    columns: [
      { name: 'What', kind: 'wide', cell: (one) => (one.jti === null ? userLink(one.user) : h('span', { class: 'mono' }, one.jti)) },
      { name: 'Kind', cell: kind },
      { name: 'Since', cell: ({ created_at }) => moment(created_at) },
      { name: 'By', cell: ({ created_by }) => h('span', { class: 'mono' }, created_by) },
      { name: 'Position', kind: 'number', cell: ({ position }) => count(position) },
    ],
    actions: [{
      text: 'Lift', named: (one) => one.jti ?? one.user,
      run: (one) => app.sure({
        title: `Lift the revocation of ${one.jti ?? one.user}?`, verb: 'Lift', word: one.jti ?? one.user,
        text: 'The tokens that it refuses are good again, unless something else is against them.',
      }, async () => {
        await app.api.delete(path`/v1/revocations/${one.id}`)
        return `The revocation of ${one.jti ?? one.user} is lifted.`
      }),
    }],
  })
  const erasures = listing(app, {
    label: 'Erasures', empty: 'No erasure is under way.', address: () => '/v1/erasures',
    columns: [
      { name: 'User', kind: 'wide', cell: ({ user }) => userLink(user) },
      { name: 'Asked for', cell: ({ requested_at }) => moment(requested_at) },
    ],
  })
  const node = h('div', { class: 'stack' },
    head('Access', 'Take tokens back: their sockets are closed at once, and no instance accepts them again.'),
    h('div', { class: 'pair' }, ofUser(app), ofToken(app)),
    listCard('In force', list), listCard('Erasures under way', erasures))
  return { node, refresh: () => Promise.all([list.refresh(), erasures.refresh()]) }
}

function kind({ jti, ban, issued_before }) {
  if (jti !== null) return badge('one token')
  return ban ? badge('banned', 'bad') : badge(`tokens up to ${moment(issued_before * 1000)}`)
}

function ofUser(app) {
  const user = input({ required: true, placeholder: 'alice' })
  const ban = h('input', { type: 'checkbox' })
  return card('A user', form({ class: 'stack' }, async () => {
    const name = user.value.trim()
    if (!name) return
    await app.sure({
      title: ban.checked ? `Ban ${name}?` : `Revoke all tokens of ${name}?`, verb: ban.checked ? 'Ban' : 'Revoke', word: name,
      text: ban.checked ? 'Every token is refused, also later ones, until the ban is lifted.'
        : 'Every token up to now is refused. With a new one the user can come back.',
    }, async () => closed(await app.api.post('/v1/revocations', ban.checked ? { user: name, ban: true } : { user: name })))
  },
  field('User', user),
  h('label', { class: 'check' }, ban, h('span', {}, 'Ban: later tokens, too')),
  h('div', { class: 'row end' }, h('button', { type: 'submit', class: 'danger' }, 'Revoke all tokens'))))
}

function ofToken(app) {
  const jti = input({ required: true, class: 'mono' })
  return card('One token', form({ class: 'stack' }, async () => {
    const id = jti.value.trim()
    if (!id) return
    await app.sure({
      title: `Revoke the token ${id}?`, verb: 'Revoke', word: id, text: 'Sockets that came with it are closed with 4001.',
    }, async () => closed(await app.api.post('/v1/revocations', { jti: id })))
  },
  field('Token id', jti, 'The claim jti that it was issued with'),
  h('div', { class: 'row end' }, h('button', { type: 'submit', class: 'danger' }, 'Revoke this token'))))
}
