import { path } from './api.js'
import { field, h, input } from './dom.js'
import { listing } from './lists.js'
import { badge, closed, filters, head, listCard, userLink } from './parts.js'
import { count, moment } from './text.js'

/** Who is connected. After the name in the address: nothing, or `@` and an instance. */
export function connections(app, rest) {
  const user = input({ type: 'search', name: 'user' })
  const instance = input({ type: 'search', name: 'instance', class: 'mono' })
  instance.value = rest.startsWith('@') ? rest.slice(1) : ''
  const list = connectionList(app, () => ({ user: user.value, instance: instance.value }))
  const node = h('div', { class: 'stack' },
    head('Connections', 'Every socket and stream that is open, on all instances.'),
    filters('Filter connections', [field('User', user), field('Instance', instance)], list.restart),
    listCard('Open connections', list))
  return { node, refresh: list.refresh }
}

export function connectionList(app, wanted) {
  return listing(app, {
    label: 'Connections', empty: 'Nobody is connected.', address: () => '/v1/connections', filters: wanted,
    columns: [
      { name: 'User', kind: 'wide', cell: ({ user }) => userLink(user) },
      { name: 'Device', cell: ({ device }) => device },
      { name: 'State', cell: ({ state }) => stateBadge(state) },
      { name: 'Behind', kind: 'number', cell: ({ written, acked }) => behind(written, acked) },
      { name: 'Rooms', kind: 'number', cell: ({ rooms }) => count(rooms) },
      { name: 'Since', cell: ({ since }) => moment(since) },
      { name: 'Instance', cell: ({ instance }) => h('span', { class: 'mono', title: instance }, instance.slice(0, 8)) },
    ],
    actions: [{
      text: 'Disconnect', kind: 'danger', named: ({ user, device }) => `${user} on ${device}`,
      run: ({ id, user, device }) => app.sure({
        title: `Disconnect ${user}?`, verb: 'Disconnect', word: user,
        text: `The connection of the device “${device}” is closed with 4010. Its token stays good, so its user can come back.`,
      }, async () => closed(await app.api.delete(path`/v1/connections/${id}`))),
    }],
  })
}

function stateBadge(state) {
  if (state === 'live') return badge('live', 'good')
  return state === 'catching_up' ? badge('catching up', 'warn') : badge('elsewhere')
}

function behind(written, acked) {
  if (written === null || acked === null) return '–'
  return written === acked ? 'none' : `${count(Math.max(written - acked, 0))} pos.`
}
