/** One person's way to the service, which can be cut: sockets end, and nothing goes out or comes in. */

export class Network {
  cut = false
  /** Of the newest connection: when it was begun, and what the service said of it first. */
  begun = 0
  welcome = undefined
  #cables = new Set()

  /** What a client takes for the browser's WebSocket. */
  get WebSocket() {
    const network = this
    return class {
      constructor(url, protocols) {
        return new Cable(network, url, protocols)
      }
    }
  }

  sever() {
    this.cut = true
    for (const cable of this.#cables) cable.lose()
  }

  /** The browser's own word for it makes clients try at once. */
  restore() {
    this.cut = false
    window.dispatchEvent(new Event('online'))
  }

  plug(cable) {
    this.begun = performance.now()
    this.#cables.add(cable)
  }

  unplug(cable) {
    this.#cables.delete(cable)
  }
}

class Cable {
  onmessage = null
  onclose = null
  onerror = null
  #network
  #socket

  constructor(network, url, protocols) {
    this.#network = network
    if (network.cut) {
      setTimeout(() => this.onclose?.({ code: 1006, reason: '' }))
      return
    }
    const socket = (this.#socket = new WebSocket(url, protocols))
    socket.onmessage = (message) => this.#hear(message)
    socket.onclose = (event) => this.#end(event)
    network.plug(this)
  }

  get readyState() {
    return this.#socket?.readyState ?? WebSocket.CLOSED
  }

  send(text) {
    if (this.readyState === WebSocket.OPEN) this.#socket.send(text)
  }

  close() {
    if (!this.#socket) return
    this.#network.unplug(this)
    this.#socket.close()
  }

  /** The client hears of it at once; the socket goes as soon as a browser can close it without complaint. */
  lose() {
    const socket = this.#socket
    socket.onmessage = socket.onclose = null
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close()
    else socket.close()
    this.#socket = undefined
    this.#end({ code: 1006, reason: '' })
  }

  #hear(message) {
    if (message.data.startsWith('{"type":"welcome"')) this.#network.welcome = JSON.parse(message.data)
    this.onmessage?.(message)
  }

  #end(event) {
    this.#network.unplug(this)
    this.onclose?.(event)
  }
}

/** Lets calls with a token fail as well while the network of whose token it is is cut. */
export function guardFetch(isCut) {
  const { fetch } = globalThis
  globalThis.fetch = (resource, options) =>
    isCut(options?.headers?.authorization) ? Promise.reject(new TypeError('the network is cut')) : fetch(resource, options)
}
