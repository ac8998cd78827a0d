/** What is shown of an event that nobody has said how to show. */

import type { Item } from './inbox.js'

export interface Shown {
  title: string
  text: string
  /** Where it leads; only ever http(s). */
  url: string | undefined
}

const COMPACT = 300

/** Return what to show: the usual names in `data`, else the type and `data` itself. */
export function shown({ type, data }: Item, base: string): Shown {
  const fields = (typeof data === 'object' && data !== null ? data : {}) as Record<string, unknown>
  const title = textOf(fields['title'])
  const text = textOf(fields['text']) || textOf(fields['body'])
  const url = linkOf(fields['url'], base)
  if (title) return { title, text, url }
  return text ? { title: text, text: '', url } : { title: type, text: compact(data), url }
}

/** Return the address if it is one to follow: `javascript:` and the like are none. */
export function linkOf(url: unknown, base: string): string | undefined {
  if (typeof url !== 'string' || !URL.canParse(url, base)) return undefined
  const { protocol, href } = new URL(url, base)
  return protocol === 'https:' || protocol === 'http:' ? href : undefined
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value.trim() : typeof value === 'number' ? String(value) : ''
}

function compact(data: unknown): string {
  if (data === null || data === undefined) return ''
  const text = typeof data === 'string' ? data : flat(data) ?? JSON.stringify(data)
  return text.length > COMPACT ? `${text.slice(0, COMPACT)}…` : text
}

/** Return names and values on a line, where there is nothing deeper. */
function flat(data: object): string | undefined {
  const fields = Object.entries(data)
  if (Array.isArray(data) || fields.some(([, value]) => typeof value === 'object' && value !== null)) return undefined
  return fields.map(([name, value]) => `${name}: ${value}`).join(' · ')
}

const UNITS = [
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
] as const
const WEEK = 7 * 86_400

/** Return how long ago that was, in words; beyond a week, the day. */
export function ago(time: string, now: number, language: string): string {
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000)
  if (seconds > WEEK) return new Intl.DateTimeFormat(language, { dateStyle: 'medium' }).format(Date.parse(time))
  const words = new Intl.RelativeTimeFormat(language, { numeric: 'auto' })
  const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? ['second', Infinity]
  return words.format(-Math.floor(seconds / size) || 0, unit)
}

/** Return the time in full. */
export function inFull(time: string, language: string): string {
  return new Intl.DateTimeFormat(language, { dateStyle: 'full', timeStyle: 'short' }).format(Date.parse(time))
}
