import { h, say, svg } from './dom.js'
import { SPAN } from './watch.js'

const WIDTH = 600
const HEIGHT = 120

/** A small chart of the last minutes. lines: { name, label }, of which the first is the figure that is written out. */
export function chart({ title, hint, lines, format }) {
  const paths = lines.map((_, n) => svg('path', { class: `line line-${n}`, 'vector-effect': 'non-scaling-stroke' }))
  const area = svg('path', { class: 'area' })
  const grid = svg('path', { class: 'grid', d: `M0 1H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 1}H${WIDTH}`, 'vector-effect': 'non-scaling-stroke' })
  const top = h('span', { class: 'top' })
  const values = lines.map(({ label }, n) => h('span', { class: `value value-${n}` }, h('b', {}, '–'), label && h('small', {}, label)))
  const picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' }, grid, area, paths)
  const node = h('figure', { class: 'card chart' },
    h('figcaption', {}, h('h2', {}, title), h('span', { class: 'quiet' }, hint)),
    h('div', { class: 'values' }, values),
    h('div', { class: 'plot' }, picture, top),
    h('div', { class: 'axis quiet', 'aria-hidden': 'true' }, h('span', {}, '3 min ago'), h('span', {}, 'now')))

  function show(samples) {
    const all = samples.flatMap((sample) => lines.map(({ name }) => sample[name])).filter((value) => value !== null)
    const most = ceiling(Math.max(0, ...all))
    const end = samples.at(-1)?.at ?? 0
    const drawn = lines.map(({ name }) => runs(samples, name).map((run) => run.map(({ at, value }) =>
      [WIDTH * (1 - (end - at) / SPAN), 2 + (HEIGHT - 4) * (1 - value / most)])))
    drawn.forEach((each, n) => paths[n].setAttribute('d', each.map(trace).join('')))
    area.setAttribute('d', drawn[0].map((run) => `${trace(run)}V${HEIGHT}H${run[0][0].toFixed(1)}Z`).join(''))
    say(top, all.length ? format(most) : '')
    lines.forEach(({ name }, n) => say(values[n].firstChild, format(samples.at(-1)?.[name] ?? null)))
    picture.setAttribute('aria-label', `${title}: ${values.map((value) => value.textContent).join(', ')}`)
  }

  return { node, show }
}

/** Cuts a line where there was nothing to measure. */
function runs(samples, name) {
  const found = [[]]
  for (const { at, [name]: value } of samples) {
    if (value !== null) found.at(-1).push({ at, value })
    else if (found.at(-1).length) found.push([])
  }
  return found.filter((run) => run.length)
}

/** A run of one point is drawn as a short line, or it would not be seen. */
function trace(run) {
  const points = run.length > 1 ? run : [run[0], [run[0][0] + 2, run[0][1]]]
  return `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join('L')}`
}

/** The next of 1, 2, 5, 10, 20 …, also below one. */
function ceiling(value) {
  if (value === 0) return 1
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 5, 10].find((step) => step * power >= value) * power
}
