import { chart } from './chart.js'
import { h, say } from './dom.js'
import { table } from './lists.js'
import { head } from './parts.js'
import { count, milliseconds, moment, rate, seconds } from './text.js'

const sum = (counts) => Object.values(counts).reduce((total, n) => total + n, 0)

/** How the service is: figures, charts, and each instance. */
export function overview(app) {
  const figures = [
    figure('Connections', ({ total }) => count(sum(total.connections))),
    figure('Users connected', ({ total }) => count(total.users)),
    figure('Delivered', ({ total }) => count(total.delivered)),
    figure('Instances', ({ total }) => count(total.instances)),
    figure('Since log confirmed', (stats) => seconds(oldest(stats))),
  ]
  const charts = [
    chart({ title: 'Delivered', hint: 'events a second, all instances', lines: [{ name: 'delivered' }], format: rate }),
    chart({ title: 'Accepted', hint: 'log entries a second, this instance', lines: [{ name: 'accepted' }], format: rate }),
    chart({ title: 'Connections', hint: 'all instances', lines: [{ name: 'connections' }], format: rate }),
    chart({
      title: 'Time of a commit', hint: 'of the last 15 s, this instance', format: milliseconds,
      lines: [{ name: 'p50', label: 'p50' }, { name: 'p99', label: 'p99' }],
    }),
  ]
  const instances = table({ label: 'Instances', empty: 'No instance has told its figures yet.', columns: [
    { name: 'Instance', kind: 'wide', cell: ({ instance }) => h('a', { class: 'mono', href: `#/connections/@${instance}` }, instance.slice(0, 12)) },
    { name: 'Version', cell: ({ version }) => version ?? '–' },
    { name: 'Started', cell: ({ started_at }) => moment(started_at) },
    { name: 'Live', kind: 'number', cell: ({ stats }) => count(stats?.connections.live ?? 0) },
    { name: 'Catching up', kind: 'number', cell: ({ stats }) => count(stats?.connections.catching_up ?? 0) },
    { name: 'Delivered', kind: 'number', cell: ({ stats }) => count(stats?.delivered) },
    { name: 'Position', kind: 'number', cell: ({ stats }) => count(stats?.position) },
    { name: 'Log confirmed', kind: 'number', cell: ({ stats }) => (stats ? `${seconds(stats.head_confirmed_age)} ago` : '–') },
  ] })

  function drawn() {
    const { stats, samples } = app.watch
    for (const each of figures) each.show(stats)
    for (const each of charts) each.show(samples)
    instances.show(stats.instances)
  }

  const node = h('div', { class: 'stack' },
    head('Overview', 'What the service holds and does just now.'),
    h('dl', { class: 'figures' }, figures.map((each) => each.node)),
    h('div', { class: 'charts' }, charts.map((each) => each.node)),
    h('section', { class: 'card' }, h('h2', {}, 'Instances'), instances.node))
  if (app.watch.stats) drawn()
  return { node, refresh: async () => {}, drawn }
}

function oldest({ instances }) {
  const ages = instances.filter(({ stats }) => stats).map(({ stats }) => stats.head_confirmed_age)
  return ages.length ? Math.max(...ages) : null
}

function figure(name, value) {
  const shown = h('dd', {}, '–')
  const node = h('div', { class: 'card figure' }, h('dt', {}, name), shown)
  return { node, show: (stats) => say(shown, value(stats)) }
}
