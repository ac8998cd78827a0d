// Shows orders as they are shipped. In an application with React:
//
//   npm install tidings-client
//   <Orders url="https://tidings.example.com" getToken={() => fetch('/tidings-token').then((r) => r.text())} />
//
// The element's `key` should be the user, so that somebody else who signs in gets a client of their own.
import { useState } from 'react'
import { useEvent, useTidings, useTidingsState } from 'tidings-client/react'

export function Orders({ url, getToken }) {
  const tidings = useTidings({ url, getToken })
  const state = useTidingsState(tidings)
  const [shipped, setShipped] = useState([])

  useEvent(tidings, 'order.shipped', (event) => setShipped((before) => [...before, event]))

  return (
    <section>
      <p>{state === 'live' ? 'Up to date' : state === 'offline' ? 'Offline: what you miss will come' : 'One moment…'}</p>
      <ul>
        {shipped.map((event) => (
          <li key={event.position}>Order {event.data.order} has been shipped</li>
        ))}
      </ul>
    </section>
  )
}
