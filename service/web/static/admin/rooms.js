import { path } from './api.js'
import { field, form, h, input } from './dom.js'
import { listing } from './lists.js'
import { badge, card, head, listCard, lookUp, suggestions, userLink } from './parts.js'
import { count, moment } from './text.js'

/** A room: who is in it, and who of them is connected. */
export function rooms(app, room) {
  const top = head('Rooms and presence', 'Who is a member, and who of them is connected just now.')
  const ask = lookUp({ label: 'Room', placeholder: 'orders', value: room, section: 'rooms' })
  if (!room) return recent(app, top, ask)

  const members = listing(app, {
    label: 'Members', empty: 'Nobody is a member of this room.', address: () => path`/v1/rooms/${room}/members`,
    columns: [
      { name: 'User', kind: 'wide', cell: ({ user }) => userLink(user) },
      { name: 'Made by', cell: ({ source }) => badge(source === 'api' ? 'the API' : 'their own joining') },
      { name: 'Since position', kind: 'number', cell: ({ since }) => count(since) },
    ],
    actions: [{
      text: 'Remove', kind: 'danger', named: ({ user }) => user,
      run: ({ user }) => app.sure({
        title: `Remove ${user} from ${room}?`, verb: 'Remove', word: user,
        text: 'What is sent to the room from now on does not reach this user.',
      }, async () => {
        await app.api.delete(path`/v1/rooms/${room}/members/${user}`)
        return `${user} is no member of ${room} any more.`
      }),
    }],
  })
  const present = listing(app, {
    label: 'Connected', empty: 'Nobody in this room is connected.', address: () => path`/v1/rooms/${room}/presence`,
    columns: [
      { name: 'User', kind: 'wide', cell: ({ user }) => userLink(user) },
      { name: 'Shown as', cell: ({ info }) => info?.name ?? (info === null ? '–' : JSON.stringify(info)) },
      { name: 'Connections', kind: 'number', cell: ({ devices }) => count(devices) },
      { name: 'Since', cell: ({ since }) => moment(since) },
    ],
  })
  const user = input({ required: true, placeholder: 'alice' })
  const add = form({ class: 'row look-up' }, async () => {
    const name = user.value.trim()
    if (!name) return
    const worked = await app.act(async () => {
      const changed = await app.api.put(path`/v1/rooms/${room}/members/${name}`)
      return changed.length ? `${name} is a member of ${room}.` : `${name} was a member of ${room} already.`
    })
    if (worked) user.value = ''
  }, field('Add a user', user), h('button', { type: 'submit' }, 'Add'))

  const node = h('div', { class: 'stack' }, top, card(null, ask),
    h('div', { class: 'pair' }, listCard('Members', members, { between: add }), listCard('Connected', present)))
  return { node, refresh: () => Promise.all([members.refresh(), present.refresh()]) }
}

/** Without a name: rooms to which something was sent of late. */
function recent(app, top, ask) {
  const names = suggestions('Rooms with recent events', 'No event was sent to a room of late.', 'rooms')
  async function refresh() {
    const { data } = await app.api.get('/v1/events?to=room:*&limit=200')
    names.show([...new Set(data.map((event) => event.to.slice('room:'.length)))].slice(0, 24))
  }
  return { node: h('div', { class: 'stack' }, top, card(null, ask), names.node), refresh }
}
