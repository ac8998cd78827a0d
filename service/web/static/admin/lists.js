import { query } from './api.js'
import { button, h, say } from './dom.js'

/**
 * A table that shows one page of a list again and again. Its rows stay where they are and change what they show:
 * nothing moves under the pointer. On a phone each row is a card.
 *
 * columns: { name, cell(item) → text or nodes, kind?: 'number', 'wide' or 'widest' }; actions: { text, kind, run(item), when?(item) }
 */
export function table({ label, columns, actions = [], empty }) {
  const rows = []
  const body = h('tbody', { role: 'rowgroup' })
  const heads = columns.map(({ name, kind }) => h('th', { role: 'columnheader', scope: 'col', class: kind }, name))
  if (actions.length) heads.push(h('th', { role: 'columnheader', scope: 'col' }, h('span', { class: 'unseen' }, 'Actions')))
  const grid = h('table', { role: 'table', 'aria-label': label, class: 'hidden' },
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, heads)), body)
  const note = h('p', { class: 'empty' }, 'Loading…')

  function show(items) {
    for (const [n, item] of items.entries()) (rows[n] ??= row(columns, actions)).show(item)
    for (const gone of rows.splice(items.length)) gone.node.remove()
    for (const { node } of rows) if (!node.parentNode) body.append(node)
    grid.classList.toggle('hidden', !items.length)
    note.classList.toggle('hidden', items.length > 0)
    say(note, empty)
  }

  /** Tells why there is nothing. What was shown before stays, unless it is not what is asked for now. */
  function fail({ status, message }) {
    const isRefused = status >= 400 && status < 500
    if (isRefused) show([])
    if (!rows.length) say(note, isRefused ? `${message}.` : `This could not be loaded: ${message}. It is tried again.`)
  }

  return { node: h('div', { class: 'table' }, grid, note), show, fail }
}

function row(columns, actions) {
  let item
  const cells = columns.map(({ name, kind }) => h('td', { role: 'cell', 'data-name': name, class: kind }))
  const buttons = actions.map(({ text, kind, run }) => button(text, () => run(item), `small ${kind ?? ''}`))
  const last = actions.length ? [h('td', { role: 'cell', class: 'actions' }, h('div', { class: 'row' }, buttons))] : []
  const node = h('tr', { role: 'row' }, cells, last)

  function show(now) {
    item = now
    columns.forEach(({ cell }, n) => put(cells[n], cell(item)))
    actions.forEach(({ when, text, named }, n) => {
      buttons[n].classList.toggle('hidden', Boolean(when && !when(item)))
      if (named) buttons[n].setAttribute('aria-label', `${text} ${named(item)}`)
    })
  }

  return { node, show }
}

/** Puts a text or nodes into a cell, where they are not there already. */
function put(cell, content) {
  const made = h('td', {}, content)
  const isSame = cell.childNodes.length === made.childNodes.length
    && [...cell.childNodes].every((node, n) => node.isEqualNode(made.childNodes[n]))
  if (!isSame) cell.replaceChildren(...made.childNodes)
}

/**
 * A table of what `address()` answers, page by page. `filters()` go into its query;
 * `cursor` is what takes the `next_cursor`.
 */
export function listing(app, { address, filters = () => ({}), cursor = 'after', limit = 50, turned, got, ...options }) {
  const shown = table(options)
  const first = button('First', () => turn(null, 1), 'small')
  const next = button('Next', () => turn(coming, page + 1), 'small')
  const where = h('span', { class: 'quiet', 'aria-live': 'polite' })
  let at = null
  let page = 1
  let coming = null
  let last

  function turn(to, number) {
    at = to
    page = number
    turned?.(page)
    return app.refresh()
  }

  async function refresh() {
    let asked
    try {
      asked = last = query(address(), { ...filters(), limit, [cursor]: at })
      const answer = await app.api.get(asked)
      if (last !== asked) return // it has been turned meanwhile
      coming = answer.next_cursor
      shown.show(answer.data)
      got?.(answer)
    } catch (problem) {
      if (last === asked) shown.fail(problem)
      throw problem
    }
    first.disabled = page === 1
    next.disabled = coming === null
    say(where, `Page ${page}`)
    pages.classList.toggle('idle', page === 1 && coming === null)
  }

  const pages = h('nav', { class: 'row pages idle', 'aria-label': `Pages: ${options.label}` }, where, first, next)
  return { node: shown.node, pages, refresh, restart: () => turn(null, 1) }
}
