import { path } from './api.js'
import { button, h, say } from './dom.js'
import { listing } from './lists.js'
import { addressLink, badge, head, listCard, userLink } from './parts.js'
import { count, moment } from './text.js'

const KINDS = { received: 'good', pending: 'warn', skipped: '', unknown: '' }
const WHY = {
  excluded: 'left out by the sender', started_later: 'first seen after it', after: 'asked to start behind it',
  expired: 'it had expired', recalled: 'it was taken back', collapsed: 'a newer one replaced it',
  grant: 'its token may not have granted the room', forgotten: 'jumped over it too long ago',
}

/** One event, and which devices have it. */
export function event(app, position) {
  const facts = h('dl', { class: 'facts' })
  const data = h('pre', { class: 'data', tabindex: 0, 'aria-label': 'Data' })
  const recall = button('Take it back', () => app.sure({
    title: `Take event ${position} back?`, verb: 'Take it back', word: position,
    text: 'It is not replayed any more, and who is connected is told to take it off the screen. Who has read it has read it.',
  }, async () => {
    await app.api.delete(path`/v1/events/${position}`)
    return `Event ${position} is taken back.`
  }), 'danger')
  const counts = h('p', { class: 'row counts' })
  const list = listing(app, {
    label: 'Deliveries', empty: 'It is for no device: nobody with a right to it has ever connected.',
    address: () => path`/v1/events/${position}/deliveries`, got: (answer) => answer.counts && total(answer.counts),
    columns: [
      { name: 'User', kind: 'wide', cell: ({ user }) => userLink(user) },
      { name: 'Device', cell: ({ device }) => device },
      { name: 'State', cell: ({ state }) => badge(state, KINDS[state]) },
      { name: 'Why', cell: ({ reason }) => (reason ? WHY[reason] ?? reason : '–') },
      { name: 'Read', cell: ({ read }) => (read === undefined ? '–' : read ? 'yes' : 'no') },
    ],
  })

  function total(states) {
    counts.replaceChildren(...Object.entries(states).map(([state, n]) => badge(`${count(n)} ${state}`, n ? KINDS[state] : '')))
  }

  let isGone = false
  async function refresh() {
    if (isGone) return
    try {
      show(await app.api.get(path`/v1/events/${position}`))
    } catch (problem) {
      if (problem.status !== 404) throw problem
      isGone = true
      recall.disabled = true
      node.replaceChildren(top, h('p', { class: 'card empty', role: 'status' }, `It cannot be shown: ${problem.message}.`))
      return
    }
    await list.refresh()
  }

  function show(one) {
    const rows = [
      ['To', addressLink(one.to)], ['Type', one.event], ['Id', one.id], ['Time', moment(one.time)],
      ['From', one.from && userLink(one.from)], ['Expires', one.expires_at && moment(one.expires_at)],
      ['Collapse key', one.collapse_key], ['Recalled at', one.recalled && count(one.recalled)],
    ].filter(([, value]) => value)
    const made = rows.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])
    if (!facts.isEqualNode(h('dl', { class: 'facts' }, made))) facts.replaceChildren(...made)
    say(data, JSON.stringify(one.data, null, 2))
    recall.disabled = Boolean(one.recalled)
    say(recall, one.recalled ? 'Taken back' : 'Take it back')
  }

  const top = head(`Event ${position}`, h('a', { href: '#/events' }, '← All events'), recall)
  const node = h('div', { class: 'stack' }, top,
    h('section', { class: 'card pair' }, facts, data),
    listCard('Deliveries', list, { between: counts }))
  return { node, refresh }
}
