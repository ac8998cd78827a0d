import { path } from './api.js'
import { connectionList } from './connections.js'
import { button, h } from './dom.js'
import { listing } from './lists.js'
import { badge, card, closed, head, listCard, lookUp, roomLink, suggestions } from './parts.js'
import { count, moment } from './text.js'

/** A user: devices and how far each has got, rooms, connections; and to take all of it away. */
export function users(app, user) {
  const top = head('Users and devices', 'How far each device has got, and where a user is.')
  const ask = lookUp({ label: 'User', placeholder: 'alice', value: user, section: 'users' })
  if (!user) return connected(app, top, ask)

  const lists = [deviceList(app, user), connectionList(app, () => ({ user })), roomList(app, user)]
  const node = h('div', { class: 'stack' }, top, card(null, ask, orders(app, user)),
    listCard('Devices', lists[0]), listCard('Connections', lists[1]), listCard('Rooms', lists[2]))
  return { node, refresh: () => Promise.all(lists.map((list) => list.refresh())) }
}

function deviceList(app, user) {
  return listing(app, {
    label: 'Devices', empty: 'This user has no devices.', address: () => path`/v1/users/${user}/devices`,
    columns: [
      { name: 'Device', kind: 'wide', cell: ({ device }) => device },
      { name: 'Connected', cell: ({ connected: here }) => (here ? badge('connected', 'good') : badge('no')) },
      { name: 'To come', kind: 'number', cell: ({ behind }) => (behind ? badge(`${count(behind)} events`, 'warn') : 'nothing') },
      { name: 'Lag', kind: 'number', cell: ({ lag }) => `${count(lag)} pos.` },
      { name: 'Cursor', kind: 'number', cell: ({ cursor }) => count(cursor) },
      { name: 'Last seen', cell: ({ seen_at }) => moment(seen_at) },
    ],
    actions: [{
      text: 'Forget', kind: 'danger', named: ({ device }) => device,
      run: ({ device }) => app.sure({
        title: `Forget the device “${device}”?`, verb: 'Forget', word: device,
        text: `Its sockets are closed. When it comes back it is a new one: what it has not received until now may not be sent to it.`,
      }, async () => {
        await app.api.delete(path`/v1/users/${user}/devices/${device}`)
        return `The device “${device}” of ${user} is forgotten.`
      }),
    }],
  })
}

function roomList(app, user) {
  return listing(app, {
    label: 'Rooms', empty: 'This user is in no room.', address: () => path`/v1/users/${user}/rooms`,
    columns: [
      { name: 'Room', kind: 'wide', cell: ({ room }) => roomLink(room) },
      { name: 'Made by', cell: ({ source }) => badge(source === 'api' ? 'the API' : 'their own joining') },
      { name: 'Since position', kind: 'number', cell: ({ since }) => count(since) },
    ],
  })
}

/** What can be done to a user. */
function orders(app, user) {
  const revoke = () => app.sure({
    title: `Revoke all tokens of ${user}?`, verb: 'Revoke', word: user,
    text: 'Every token that was issued up to now is refused, and the sockets that came with one are closed with 4001. With a new token the user can come back.',
  }, async () => closed(await app.api.post('/v1/revocations', { user })))
  const ban = () => app.sure({
    title: `Ban ${user}?`, verb: 'Ban', word: user,
    text: 'Every token is refused, also those that are issued later, until the ban is lifted under Access.',
  }, async () => closed(await app.api.post('/v1/revocations', { user, ban: true })))
  const erase = () => app.sure({
    title: `Erase ${user}?`, verb: 'Erase for good', word: user,
    text: 'Devices, rooms, what was read and what was sent to this user are deleted, and the words of what the user sent. This cannot be taken back.',
  }, async () => `${user} is being erased. ${closed(await app.api.delete(path`/v1/users/${user}`))}`)
  return h('div', { class: 'row', role: 'group', 'aria-label': `What can be done to ${user}` },
    button('Revoke all tokens', revoke, 'danger'), button('Ban', ban, 'danger'), button('Erase', erase, 'danger'))
}

/** Without a name: who is connected. */
function connected(app, top, ask) {
  const names = suggestions('Connected just now', 'Nobody is connected.', 'users')
  async function refresh() {
    const { data } = await app.api.get('/v1/connections?limit=200')
    names.show([...new Set(data.map(({ user }) => user))].sort().slice(0, 24))
  }
  return { node: h('div', { class: 'stack' }, top, card(null, ask), names.node), refresh }
}
