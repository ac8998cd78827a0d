/** Decisions that need neither a timer nor a socket. Times are in milliseconds. */

/** What the end of a connection asks for. */
export type Verdict = 'reconnect' | 'rest' | 'renew' | 'unauthorized' | 'closed'

/** `renewable`: a new token can be had, and has not been since the last welcome. */
export function verdict(code: number, renewable: boolean): Verdict {
  switch (code) {
    case 4001: return renewable ? 'renew' : 'unauthorized'
    case 4003: return 'unauthorized'
    case 1008:
    case 4010: return 'closed'
    case 4029: return 'rest'
    default: return 'reconnect'
  }
}

/** How long to wait after so many failures in a row; `random` is between 0 and 1. */
export function pause(failures: number, random: number, min = 500, max = 30_000): number {
  return random * Math.min(max, min * 2 ** failures)
}

/** How long to wait where the server said that it was too much. */
export function rest(random: number): number {
  return 5_000 + random * 55_000
}

/** `user`, and when to get the next token; undefined where the token does not say. */
export interface Clock {
  user?: string
  refreshAt?: number
}

/** What a token says of itself, unchecked: its life counts from when it was got, so that a wrong clock does not matter. */
export function clock(token: string | undefined, gotAt: number): Clock {
  try {
    const payload = token!.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/')
    // UTF-8, without the TextDecoder that React Native lacks.
    const escaped = atob(payload).replace(/[^]/g, (byte) => `%${byte.charCodeAt(0).toString(16).padStart(2, '0')}`)
    const { sub, iat, exp } = JSON.parse(decodeURIComponent(escaped))
    return { user: sub, refreshAt: exp > iat ? gotAt + (exp - iat) * 800 : undefined }
  } catch {
    return {}
  }
}

/** The base of the service, `http(s)` and without a slash at its end. */
export function baseOf(url: string): string {
  return url.replace(/^ws/, 'http').replace(/\/+$/, '')
}

/** Whether events of this type are meant by a pattern. */
export function matches(pattern: string, type: string): boolean {
  return pattern.endsWith('*') ? type.startsWith(pattern.slice(0, -1)) : pattern === type
}
