import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from 'react'
import { connect, type Options, type State, type Tidings, type TidingsEvent } from './index.js'

/** A client for as long as the component is there. It is made anew where `url`, `device` or `token` changes; undefined at first. */
export function useTidings(options: Options): Tidings | undefined {
  const [client, setClient] = useState<Tidings>()
  const { url, device, token } = options
  const latest = useRef(options)
  latest.current = options
  useEffect(() => {
    const { getToken } = latest.current
    const made = connect({ ...latest.current, getToken: getToken && (() => latest.current.getToken!()) })
    setClient(made)
    return () => made.close()
  }, [url, device, token])
  return client
}

/** Calls the newest `handler` for each event of a type. */
export function useEvent(client: Tidings | undefined, type: string, handler: (event: TidingsEvent) => unknown): void {
  const latest = useRef(handler)
  useEffect(() => {
    latest.current = handler
  })
  useEffect(() => client?.on(type, (event) => latest.current(event)), [client, type])
}

/** The state, as it is now. */
export function useTidingsState(client: Tidings | undefined): State {
  const subscribe = useCallback((changed: () => void) => client?.watch('state', changed) ?? (() => {}), [client])
  return useSyncExternalStore(subscribe, () => client?.state ?? 'connecting', () => 'connecting')
}
