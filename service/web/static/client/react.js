import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from 'react';
import { connect } from './index.js';
/** A client for as long as the component is there. It is made anew where `url`, `device` or `token` changes; undefined at first. */
export function useTidings(options) {
    const [client, setClient] = useState();
    const { url, device, token } = options;
    const latest = useRef(options);
    latest.current = options;
    useEffect(() => {
        const { getToken } = latest.current;
        const made = connect({ ...latest.current, getToken: getToken && (() => latest.current.getToken()) });
        setClient(made);
        return () => made.close();
    }, [url, device, token]);
    return client;
}
/** Calls the newest `handler` for each event of a type. */
export function useEvent(client, type, handler) {
    const latest = useRef(handler);
    useEffect(() => {
        latest.current = handler;
    });
    useEffect(() => client?.on(type, (event) => latest.current(event)), [client, type]);
}
/** The state, as it is now. */
export function useTidingsState(client) {
    const subscribe = useCallback((changed) => client?.watch('state', changed) ?? (() => { }), [client]);
    return useSyncExternalStore(subscribe, () => client?.state ?? 'connecting', () => 'connecting');
}
