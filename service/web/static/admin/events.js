import { button, field, h, input, say } from './dom.js'
import { event } from './event.js'
import { listing } from './lists.js'
import { addressLink, badge, eventLink, filters, head, listCard } from './parts.js'
import { sender } from './sender.js'
import { moment } from './text.js'

/** The newest events, as they come; with a position after the name in the address that one. */
export function events(app, position) {
  return /^\d+$/.test(position) ? event(app, position) : tail(app)
}

function tail(app) {
  const address = input({ type: 'search', placeholder: 'user:*', class: 'mono' })
  const type = input({ type: 'search', placeholder: 'order.*', class: 'mono' })
  const list = listing(app, {
    label: 'Events', cursor: 'before', empty: 'No event that matches, among the newest entries of the log.', address: () => '/v1/events',
    filters: () => ({ to: address.value.trim(), type: type.value.trim() }),
    turned: (page) => {
      follow(page === 1)
      asked = true
    },
    columns: [
      { name: 'Position', cell: ({ position }) => eventLink(position) },
      { name: 'Time', cell: ({ time }) => moment(time) },
      { name: 'To', cell: ({ to }) => addressLink(to) },
      { name: 'Type', cell: (one) => (one.recalled ? [one.event, ' ', badge('recalled', 'bad')] : one.event) },
      { name: 'Data', kind: 'widest', cell: ({ data }) => h('code', { class: 'clip' }, JSON.stringify(data)) },
    ],
  })
  let isFollowing = true
  let asked = true
  const toggle = button('', () => {
    follow(!isFollowing)
    if (isFollowing) list.restart()
  }, 'small follow')

  function follow(is) {
    isFollowing = is
    toggle.setAttribute('aria-pressed', String(is))
    say(toggle, is ? 'Following' : 'Follow')
  }

  follow(true)
  const refresh = () => {
    const isDue = isFollowing || asked
    asked = false
    return isDue ? list.refresh() : undefined
  }
  const node = h('div', { class: 'stack' },
    head('Events', 'What was sent, to whomever, newest first.'),
    sender(app),
    filters('Filter events', [field('To', address), field('Type', type)], list.restart),
    listCard('The newest', list, { control: toggle }))
  return { node, refresh }
}
