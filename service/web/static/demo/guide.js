/** Says what has just happened, beside where it happened; and lets something happen at first. */

import { events, nameOf } from './dom.js'

/** Milliseconds before each of the first lines. */
const PAUSES = [300, 1000]

export class Guide {
  #people
  #cards
  #hints = ['Write to Bob, to a room, or to everyone.', 'Cut Bob’s network, write as Alice, then restore it.']

  constructor(people, cards) {
    this.#people = people
    this.#cards = cards
    for (const person of people) {
      for (const kind of ['state', 'entry', 'reset']) person.addEventListener(kind, () => this.#tell())
    }
  }

  begin() {
    this.#tell()
    if (this.#people.every(({ memory }) => !memory.entries.length)) void this.#greet()
  }

  /** Nobody has to do anything to see an event arrive. */
  async #greet() {
    const [alice, bob] = this.#people
    await Promise.all(this.#people.map((person) => until(person, 'state', () => person.state === 'live')))
    for (const person of this.#people) if (!person.rooms.get('lobby').joined) void person.toggle('lobby')
    await pause(PAUSES[0])
    void bob.say('user:alice', 'Hi Alice! This came over the service that you have just started.')
    await until(alice, 'entry', () => alice.memory.entries.some(({ from }) => from === bob.user))
    await pause(PAUSES[1])
    void alice.say('user:bob', 'Got it, Bob.')
    this.#hints[0] = 'The first two lines were written by this page. Now you: write to Bob.'
    this.#tell()
  }

  #tell() {
    this.#people.forEach((person, which) => {
      const other = this.#people[1 - which]
      this.#cards[which].explain(ownNote(person) || noteAbout(other, person) || backNote(person, other) || this.#hints[which])
    })
  }
}

/** What is to be said of somebody's own connection. */
function ownNote({ user, state, network, client, trouble, memory, replay }) {
  if (network.cut) {
    const isWaiting = memory.entries.some(({ position, refused }) => position === undefined && !refused)
    if (isWaiting) return 'Not sent yet. It goes out by itself when the network is back, and once only.'
    return `Cut off. What is sent to ${nameOf(user)} waits in the log; the client keeps trying to come back.`
  }
  if (state === 'closed' || state === 'unauthorized') return `The service has ended this connection: ${client.reason.reason}.`
  if (state === 'live' || state === 'catching-up') return ''
  if (trouble) return trouble
  return replay ? 'The service cannot be reached. The client tries again by itself, and goes on from where it was.' : 'Connecting…'
}

/** What somebody should know of the other one, who is cut off. */
function noteAbout(other, person) {
  const { user, network } = other
  if (!network.cut) return ''
  const waiting = person.memory.entries.filter((entry) => entry.position !== undefined && other.misses(entry)).length
  if (!waiting) return `${nameOf(user)} is offline. What you send is in the log and waits for ${nameOf(user)}.`
  const wait = waiting === 1 ? 'is in the log and waits' : 'are in the log and wait'
  return `${nameOf(user)} is offline. ${events(waiting)} ${wait} for ${nameOf(user)}.`
}

/** What is to be said of somebody who was away. */
function backNote(person, other) {
  const name = nameOf(person.user)
  if (person.replay?.isReturn) {
    const { count } = person.replay
    return count ? `${name} is back: ${events(count)} came from the log, in order, each once.` : `${name} is back, and had missed nothing.`
  }
  return other.replay?.isReturn ? `${nameOf(other.user)} is back, and has everything.` : ''
}

const pause = (duration) => new Promise((resolve) => setTimeout(resolve, duration))

function until(person, kind, holds) {
  return new Promise((resolve) => {
    const look = () => holds() && resolve()
    person.addEventListener(kind, look)
    look()
  })
}
