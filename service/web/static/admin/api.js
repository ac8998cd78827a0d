/** Why a call was not answered as wished; `status` is 0 where nobody answered. */
export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail)
    this.status = status
    this.code = code
  }
}

/** The address of a call, with its parts escaped: path`/v1/rooms/${room}/members`. */
export function path(texts, ...parts) {
  // A browser takes these for steps in the path, however they are escaped.
  const step = parts.find((part) => part === '.' || part === '..')
  if (step) throw new Problem(400, 'invalid', `“${step}” cannot be asked for from a browser: use curl`)
  return String.raw({ raw: texts }, ...parts.map(encodeURIComponent))
}

/** An address with a query of what is there. */
export function query(address, values) {
  const given = Object.entries(values).filter(([, value]) => value !== '' && value !== null && value !== undefined)
  return given.length ? `${address}?${new URLSearchParams(given)}` : address
}

/** Calls the service. The key is in here, and nowhere else. */
export class Api {
  #key

  constructor(key) {
    if (!/^[\x20-\x7e]+$/.test(key)) throw new Problem(401, 'unauthorized', 'no key looks like this')
    this.#key = key
  }

  get = (address) => this.send('GET', address)
  post = (address, body) => this.send('POST', address, JSON.stringify(body))
  put = (address) => this.send('PUT', address)
  delete = (address) => this.send('DELETE', address)

  /** Sends a body that is JSON already, and returns what came back. */
  async send(method, address, body) {
    const text = await this.text(method, address, body)
    return text ? JSON.parse(text, exactly) : null
  }

  async text(method, address, body) {
    const answer = await this.#ask(method, address, body)
    const text = await answer.text()
    if (!answer.ok) throw problem(answer.status, text)
    return text
  }

  async #ask(method, address, body) {
    const headers = { Authorization: `Bearer ${this.#key}` }
    if (body) headers['Content-Type'] = 'application/json'
    try {
      return await fetch(address, { method, headers, body, cache: 'no-store', credentials: 'omit', redirect: 'error' })
    } catch {
      throw new Problem(0, 'unreachable', 'the service does not answer')
    }
  }
}

/** Keeps a number of an event's data that JavaScript would round as it was sent. */
function exactly(_, value, context) {
  const isRounded = Number.isInteger(value) && !Number.isSafeInteger(value)
  return isRounded && context?.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value
}

function problem(status, text) {
  try {
    const { code, detail, errors } = JSON.parse(text)
    const fields = (errors ?? []).map((error) => `${error.pointer.slice(2)}: ${error.detail}`)
    return new Problem(status, code, fields.join('; ') || detail)
  } catch {
    return new Problem(status, 'unknown', `the answer has the status ${status}`)
  }
}
