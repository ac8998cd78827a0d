import { Problem } from './api.js'
import { confirm } from './dialogs.js'
import { button, h, say } from './dom.js'
import { login } from './login.js'
import { SECTIONS } from './sections.js'
import { moment } from './text.js'
import { Watch } from './watch.js'

const EVERY = 2000

/** Shows the page: first who is asked for the key, then what it opens. */
export function start(body, profile) {
  const notes = h('div', { class: 'notes', role: 'status', 'aria-live': 'polite' })
  const stage = h('div', { class: 'stage' })
  body.append(band(profile), stage, notes)

  function enter(reason) {
    stage.replaceChildren(login(opened, reason))
    document.title = 'Tidings admin'
  }

  function opened(api) {
    const shell = new Shell(api, profile, notes, (reason) => {
      if (!shell.api) return // it was forgotten meanwhile
      shell.close()
      notes.replaceChildren()
      enter(reason)
    })
    stage.replaceChildren(shell.node)
    shell.open()
  }

  enter()
}

/** What tells this service from others: its profile, by colour and by name, and its host. */
function band(profile) {
  return h('header', { class: 'band' },
    h('img', { src: '/assets/favicon.svg', alt: '', width: 24, height: 24 }),
    h('strong', {}, 'Tidings'),
    h('span', { class: 'badge profile' }, profile),
    h('span', { class: 'host mono' }, location.host))
}

/** What the sections work with: the service, the way to tell and to ask, and what is shown just now. */
class Shell {
  #notes
  #forget
  #section
  #timer
  #busy
  #again = false
  #main = h('main', { id: 'main', tabindex: -1 })
  #state = h('span', { class: 'state', role: 'status' })
  #links = new Map()

  constructor(api, profile, notes, forget) {
    this.api = api
    this.isProduction = profile === 'production'
    this.#notes = notes
    this.#forget = forget
    this.watch = new Watch(api)
    this.node = h('div', { class: 'shell' }, this.#nav(), this.#main)
    this.onhash = () => this.#route()
    this.onsight = () => this.refresh()
  }

  open() {
    addEventListener('hashchange', this.onhash)
    document.addEventListener('visibilitychange', this.onsight)
    this.#timer = setInterval(() => this.refresh(), EVERY)
    this.#route()
  }

  close() {
    removeEventListener('hashchange', this.onhash)
    document.removeEventListener('visibilitychange', this.onsight)
    clearInterval(this.#timer)
    this.api = null
  }

  #nav() {
    const items = SECTIONS.map(({ name, title, mark }) => {
      const link = h('a', { href: `#/${name}` }, mark(), title)
      this.#links.set(name, link)
      return h('li', {}, link)
    })
    return h('nav', { class: 'side', 'aria-label': 'Sections' },
      h('ul', {}, items),
      h('div', { class: 'foot' }, this.#state, button('Forget the key', () => this.#forget('The key is forgotten.'), 'small')))
  }

  #route() {
    const [name, ...rest] = location.hash.replace(/^#\/?/, '').split('/').map(unescaped)
    const found = SECTIONS.find((section) => section.name === name) ?? SECTIONS[0]
    for (const [each, link] of this.#links) {
      if (each === found.name) link.setAttribute('aria-current', 'page')
      else link.removeAttribute('aria-current')
    }
    this.#notes.replaceChildren()
    this.#section = found.make(this, rest.join('/'))
    this.#main.replaceChildren(this.#section.node)
    document.title = `${found.title} · Tidings admin`
    this.#main.focus({ preventScroll: true })
    scrollTo(0, 0)
    this.#links.get(found.name).scrollIntoView({ block: 'nearest', inline: 'center' }) // the row on a phone
    return this.refresh()
  }

  /** Loads anew what is shown, unless nobody sees it. Asked for while it loads, it is loaded once more. */
  async refresh() {
    if (document.hidden || !this.api) return
    this.#again = true
    this.#busy ??= this.#load()
    await this.#busy
  }

  async #load() {
    try {
      do {
        this.#again = false
        await this.#loadOnce()
      } while (this.#again && !document.hidden && this.api)
    } finally {
      this.#busy = undefined
    }
  }

  async #loadOnce() {
    const section = this.#section
    try {
      await Promise.all([this.watch.take(), section.refresh()])
      section.drawn?.()
      this.#tell('good', `Up to date at ${moment(Date.now())}`)
    } catch (problem) {
      if (problem.status === 401) this.#forget('The key is not accepted any more.')
      else this.#tell('bad', problem.code === 'unreachable' ? 'The service does not answer' : 'Some of it could not be loaded')
      if (!(problem instanceof Problem)) throw problem
    }
  }

  #tell(kind, text) {
    this.#state.dataset.kind = kind
    say(this.#state, text)
  }

  /** Does something that can fail, and tells what came of it. */
  async act(doing) {
    try {
      const told = await doing()
      if (told) this.tell(told)
      await this.refresh()
      return true
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem
      if (problem.status === 401) this.#forget('The key is not accepted any more.')
      else this.tell(`That did not work: ${problem.message}`, 'bad')
      return false
    }
  }

  /** Asks again before something that cannot be taken back; in production the name has to be typed. */
  async sure({ word, ...question }, doing) {
    if (await confirm({ ...question, word: this.isProduction && word })) await this.act(doing)
  }

  /** `content` is a text, or texts and nodes. */
  tell(content, kind = 'good') {
    const close = button('Dismiss', () => note.remove(), 'small plain')
    const note = h('div', { class: `note ${kind}` }, h('p', {}, content), close)
    this.#notes.replaceChildren(note)
  }
}

function unescaped(text) {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
