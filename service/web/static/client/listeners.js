import { TidingsError } from './commands.js';
import { matches } from './decisions.js';
/** What says nothing about whether somebody takes what stands between the events. */
const APART = new Set(['state', 'presence', 'error']);
/** What a loop that was left throws in its handler's place: its event is not handled. */
const LEFT = Symbol('left');
/** Who wants to be told what. */
export class Listeners {
    #all = new Set();
    /** Returns what takes it off. */
    add(kind, pattern, handler) {
        const listener = { kind, pattern, handler };
        this.#all.add(listener);
        return () => void this.#all.delete(listener);
    }
    /** Whether somebody takes events, or what stands between them. */
    get heard() {
        return [...this.#all].some(({ kind }) => !APART.has(kind));
    }
    /**
     * Hands over one thing, to one handler after the other. What one of them throws holds up nobody.
     *
     * Returns whether it is handled: not if the last to listen was a loop that was left.
     */
    async tell(kind, notice, type = '') {
        for (const listener of [...this.#all]) {
            if (listener.kind !== kind || !matches(listener.pattern, type))
                continue;
            try {
                await listener.handler(notice);
            }
            catch (error) {
                if (error !== LEFT)
                    this.report(error);
                else if (!this.heard)
                    return false;
            }
        }
        return true;
    }
    report(error) {
        const watchers = [...this.#all].filter(({ kind }) => kind === 'error');
        if (!watchers.length)
            console.error(error);
        for (const { handler } of watchers) {
            try {
                handler(error);
            }
            catch (another) {
                console.error(another);
            }
        }
    }
    /** Events for a loop: one is handled when the loop asks for the next. It ends as the client does. */
    async *iterate(on, end) {
        let arrive;
        const arrival = () => new Promise((resolve) => (arrive = resolve));
        let next = arrival();
        let settle;
        const unwatch = this.add('state', '*', ({ reason }) => {
            if ((end = reason))
                arrive();
        });
        const off = on((event) => new Promise((handled, left) => {
            settle = { handled, left };
            arrive(event);
        }));
        try {
            while (!end) {
                const event = await next;
                next = arrival();
                if (!event)
                    continue;
                yield event;
                settle.handled();
            }
            if (end.code !== 1000)
                throw new TidingsError('closed', end.reason);
        }
        finally {
            unwatch();
            off();
            settle?.left(LEFT);
        }
    }
}
