/** A bell at work: what keys and clicks do, and what is painted when something has changed. */

import { shown } from './bell-item.js'
import { Rows, type Render } from './bell-rows.js'
import type { Session } from './bell-session.js'
import { ENGLISH, View, type Texts } from './bell-view.js'
import type { Item } from './inbox.js'

/** Milliseconds: what comes together is said together, and a short break of the connection is not said. */
const TOGETHER = 1000
const BREAK = 1500
const MINUTE = 60_000

export class Panel {
  texts: Texts = ENGLISH
  render: Render | undefined
  session: Session | undefined
  #host: HTMLElement
  #root: ShadowRoot
  #view: View
  #rows: Rows
  #arrived: Item[] = []
  #broken: ReturnType<typeof setTimeout> | undefined
  #unread = ''
  #whileOpen: AbortController | undefined

  constructor(host: HTMLElement, root: ShadowRoot) {
    this.#host = host
    this.#root = root
    const view = (this.#view = new View(root))
    this.#rows = new Rows(view.list)
    view.button.addEventListener('click', () => (this.#whileOpen ? this.hide() : this.show()))
    view.all.addEventListener('click', () => this.#readAll())
    view.more.addEventListener('click', () => this.#older(true))
    view.retry.addEventListener('click', () => this.#load())
    view.list.addEventListener('click', (event) => this.#chosen(event))
    root.addEventListener('keydown', (event) => this.#pressed(event as KeyboardEvent))
    root.addEventListener('focusout', (event) => this.#left(event as FocusEvent))
    const near = ([seen]: IntersectionObserverEntry[]) => void (seen?.isIntersecting && this.#older(false))
    new IntersectionObserver(near, { root: view.body }).observe(view.more)
  }

  show(): void {
    if (this.#whileOpen || !this.#host.isConnected) return
    this.#whileOpen = new AbortController()
    const { signal } = this.#whileOpen
    const { panel, button } = this.#view
    panel.classList.add('open')
    panel.showPopover?.()
    button.setAttribute('aria-expanded', 'true')
    for (const kind of ['resize', 'scroll']) addEventListener(kind, () => this.#view.place(), { signal, capture: true })
    document.addEventListener('pointerdown', (event) => this.#pointed(event), { signal, capture: true })
    const clock = setInterval(() => this.#rows.tick(this.#language), MINUTE)
    signal.addEventListener('abort', () => clearInterval(clock))
    this.#load()
    this.#view.place()
    if (!this.#rows.focus()) panel.focus()
  }

  /** Close the panel; focus goes back to the button if it was inside. */
  hide(): void {
    if (!this.#whileOpen) return
    this.#whileOpen.abort()
    this.#whileOpen = undefined
    const { panel, button } = this.#view
    const inside = panel.contains(this.#root.activeElement)
    button.setAttribute('aria-expanded', 'false')
    if (inside) button.focus()
    panel.hidePopover?.()
    panel.classList.remove('open')
    this.session?.inbox.rest()
    this.paint()
  }

  /** Show everything anew: other words, or another way to show an event. */
  redraw(): void {
    this.#rows.clear()
    this.#view.label(this.texts)
    this.#unread = ''
    this.paint()
  }

  paint(): void {
    const inbox = this.session?.inbox
    const { items = [], state = 'new', hasMore = false } = inbox ?? {}
    const view = this.#view
    this.#paintBadge()
    this.#paintState()
    const waiting = !items.length && (state === 'new' || state === 'loading')
    view.ghosts.hidden = !waiting
    view.body.setAttribute('aria-busy', String(waiting))
    const instead = state === 'failed' ? 'failure' : items.length || waiting ? 'list' : 'nothing'
    view.instead(instead, this.texts)
    view.list.hidden = instead !== 'list' || waiting
    view.more.hidden = !hasMore || state !== 'ready'
    view.all.setAttribute('aria-disabled', String(!inbox?.badge.unread))
    if (this.#whileOpen) this.#paintRows(items)
  }

  /** Let people know of a new event: the bell rings, and who listens to the page is told what it is. */
  arrived(item: Item): void {
    this.#view.ring()
    if (this.#arrived.push(item) > 1) return
    setTimeout(() => {
      const { title, text } = shown(this.#arrived[0]!, document.baseURI)
      const what = text ? `${title}. ${text}` : title
      if (this.#speaks) this.#view.spoken.textContent = this.texts.arrived(this.#arrived.length, what)
      this.#arrived = []
    }, TOGETHER)
  }

  /** Of several bells on a page one speaks. */
  get #speaks(): boolean {
    const root = this.#host.getRootNode() as ParentNode
    return root.querySelector?.(this.#host.localName) === this.#host
  }

  get #language(): string {
    return this.#host.closest<HTMLElement>('[lang]')?.lang || navigator.language
  }

  #paintRows(items: Item[]): void {
    const focused = this.#root.activeElement === this.#view.panel
    const { render, texts } = this
    this.#rows.show(items, { render, language: this.#language, unread: texts.unread, failed: reportError })
    if (focused) this.#rows.focus()
  }

  #paintBadge(): void {
    const { unread = 0, more = false } = this.session?.inbox.badge ?? {}
    const [view, texts] = [this.#view, this.texts]
    view.badge.hidden = !unread
    view.badge.textContent = unread > 99 ? '99+' : more ? `${unread}+` : String(unread)
    const count = texts.count(more ? texts.orMore(unread) : String(unread))
    view.badge.classList.toggle('wide', view.badge.textContent.length > 2)
    view.button.setAttribute('aria-label', unread ? `${texts.title}, ${count}` : texts.title)
    if (this.#unread === count || !this.session) return
    this.#unread = count
    this.#tell('tidings-unread', { unread, more })
  }

  /** Say what is wrong with the connection, once it lasts. */
  #paintState(): void {
    const state = this.session?.state ?? 'connecting'
    const words = { offline: this.texts.offline, unauthorized: this.texts.unauthorized, closed: this.texts.closed }[state]
    clearTimeout(this.#broken)
    const say = () => (this.#view.status.textContent = words ?? '')
    if (state !== 'connecting') this.#broken = setTimeout(say, words ? BREAK : 0)
  }

  #load(): void {
    void this.session?.refresh(true)
    this.paint()
  }

  #readAll(): void {
    if (this.#view.all.getAttribute('aria-disabled') !== 'true') this.#try(this.session?.inbox.readAll())
  }

  #older(asked: boolean): void {
    const count = this.session?.inbox.items.length
    const then = () => asked && this.session?.inbox.items.length !== count && this.#rows.focusAt(count!)
    this.#try(this.session?.inbox.more().then(then))
  }

  /** What fails is said, and can be tried again. */
  #try(attempt: Promise<unknown> | undefined): void {
    attempt?.catch(() => (this.#view.spoken.textContent = this.texts.failed))
  }

  #chosen(event: Event): void {
    const item = this.#rows.at(event)
    if (!item) return
    if (!item.read) this.#try(this.session?.inbox.read(item.position))
    if (!this.#tell('tidings-open', { ...item, read: true })) event.preventDefault()
    if ((event.target as Element).closest('a')) this.hide()
  }

  #tell(name: string, detail: object): boolean {
    return this.#host.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true, cancelable: true }))
  }

  #pressed(event: KeyboardEvent): void {
    const { key } = event
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return
    const inside = event.target !== this.#view.button
    if (key === 'Escape' && this.#whileOpen) this.hide()
    else if (key === 'ArrowDown' && !inside) this.show()
    else if (!inside || !this.#rows.step(key)) return
    event.preventDefault()
    event.stopPropagation()
  }

  #left({ relatedTarget: to }: FocusEvent): void {
    if (to instanceof Node && !this.#root.contains(to) && !this.#host.contains(to)) this.hide()
  }

  #pointed(event: Event): void {
    if (!event.composedPath().includes(this.#host)) this.hide()
  }
}
