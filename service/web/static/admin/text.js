const NUMBER = new Intl.NumberFormat('en')
const CLOCK = { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' }
const today = new Intl.DateTimeFormat('en', CLOCK)
const earlier = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit' })

export const count = (value) => (value === null || value === undefined ? '–' : NUMBER.format(value))

/** A moment by the reader's clock: the date only where it is not today's. */
export function moment(instant) {
  if (!instant) return '–'
  const at = new Date(instant)
  return at.toDateString() === new Date().toDateString() ? today.format(at) : earlier.format(at)
}

export function seconds(value) {
  if (value === null || value === undefined) return '–'
  return value < 1 ? milliseconds(value) : `${value.toFixed(1)} s`
}

export function milliseconds(value) {
  if (value === null || value === undefined) return '–'
  const ms = value * 1000
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`
}

export function rate(value) {
  if (value === null || value === undefined) return '–'
  return value < 10 ? value.toFixed(1).replace(/\.0$/, '') : count(Math.round(value))
}
