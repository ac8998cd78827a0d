/** One connection for all tabs of a browser: one of them holds it, and serves the others. */
import { clock } from './decisions.js';
import { Hub, MOVE } from './hub.js';
import { connect } from './index.js';
import { websocket } from './websocket.js';
/** Milliseconds between questions to the tab that serves, and how many it may leave unanswered. */
const ASK = 1500;
const UNANSWERED = 3;
const PING = JSON.stringify({ type: 'ping' });
/** Return a client as `connect` does, whose connection is shared with all tabs that have the same user and device. */
export function shared(options) {
    if (!globalThis.navigator?.locks || !globalThis.BroadcastChannel)
        return connect(options);
    const { user, transport = websocket(options.WebSocket ?? WebSocket), fallback } = options;
    const tabs = new Tabs('tidings', transport, user);
    const others = fallback && new Tabs('tidings fallback', fallback, user);
    const client = connect({ ...options, transport: tabs, ...(others && { fallback: after(tabs, others) }) });
    client.watch('state', ({ state }) => {
        if (state !== 'closed' && state !== 'unauthorized')
            return;
        tabs.leave();
        others?.leave();
    });
    return client;
}
/** What a client falls back to, it does not come back from: let another tab serve in its place. */
function after(tabs, others) {
    return {
        open(request, sink) {
            tabs.leave();
            return others.open(request, sink);
        },
    };
}
/** A transport by way of whichever tab has the connection: this one, if it is its turn. */
class Tabs {
    #kind;
    #transport;
    #user;
    #tab = Math.random().toString(36).slice(2);
    #lines = new Map();
    #count = 0;
    #name = '';
    #channel;
    #hub;
    /** Where this tab began, for as long as it has handled nothing: `<log>:<position>`. */
    #began = null;
    /** Whom this tab listens to. */
    #served = '';
    #unanswered = 0;
    #timer;
    #lock;
    #resign;
    constructor(kind, transport, user) {
        this.#kind = kind;
        this.#transport = transport;
        this.#user = user;
    }
    open(request, sink) {
        const user = request.token === undefined ? this.#user : clock(request.token, 0).user;
        // Whose cookie a tab has cannot be seen, and nobody may get what is another's.
        if (user === undefined)
            return this.#transport.open(request, sink);
        this.#join(`${this.#kind} ${request.url} ${rest(request.query)} ${user}`);
        const line = (this.#count += 1);
        this.#lines.set(line, { request, sink });
        queueMicrotask(() => this.#enter(line));
        return {
            send: (text) => this.#tell({ tab: this.#tab, kind: 'text', line, text }),
            close: () => {
                if (this.#lines.delete(line))
                    this.#tell({ tab: this.#tab, kind: 'shut', line });
            },
        };
    }
    /** Have no part in it any more, until a line is opened again. */
    leave() {
        if (!this.#channel)
            return;
        this.#tell({ tab: this.#tab, kind: 'bye' });
        this.#name = '';
        this.#lock?.abort();
        this.#abdicate();
        clearTimeout(this.#timer);
        this.#lines.clear();
        this.#channel.close();
        this.#channel = undefined;
    }
    #join(name) {
        if (this.#name === name)
            return;
        this.leave();
        this.#name = name;
        this.#began = null;
        this.#served = '';
        this.#channel = new BroadcastChannel(name);
        this.#channel.onmessage = ({ data }) => {
            if ('hub' in data)
                this.#hear(data);
            else
                this.#hub?.hear(data);
        };
        this.#queue({});
        this.#watch();
    }
    /** Wait for the turn to serve, or take it. */
    #queue(how) {
        const name = this.#name;
        this.#lock?.abort();
        const lock = (this.#lock = new AbortController());
        const options = how.steal ? { steal: true } : { signal: lock.signal };
        const turn = () => (lock.signal.aborted ? undefined : this.#serve());
        navigator.locks.request(name, options, turn).catch(() => {
            // Given up by this tab, or taken from it, for it had been silent.
            if (lock.signal.aborted)
                return;
            this.#abdicate();
            this.#queue({});
        });
    }
    #serve() {
        const id = Math.random().toString(36).slice(2);
        this.#hub = new Hub(id, this.#tab, this.#transport, (message) => this.#send(message));
        this.#send({ hub: id, kind: 'hub' });
        return new Promise((resign) => (this.#resign = resign));
    }
    #abdicate() {
        if (this.#hub)
            this.#served = '';
        this.#hub?.stop();
        this.#hub = undefined;
        this.#resign?.();
    }
    #send(message) {
        this.#channel?.postMessage(message);
        this.#hear(message);
    }
    #tell(message) {
        if (this.#hub)
            this.#hub.hear(message);
        else
            this.#channel?.postMessage(message);
    }
    #enter(line) {
        const request = this.#lines.get(line)?.request;
        if (!request)
            return;
        const resume = request.query.get('resume') ?? this.#began;
        const message = { tab: this.#tab, kind: 'open', line, resume };
        if (this.#hub)
            this.#hub.hear(message, request);
        else
            this.#channel?.postMessage(message);
    }
    #hear(message) {
        if (message.kind === 'hub')
            this.#turn(message.hub);
        if (message.kind === 'here' || ('tab' in message && message.tab === this.#tab))
            this.#served ||= message.hub;
        if (message.hub !== this.#served)
            return;
        this.#unanswered = 0;
        if (message.kind === 'here')
            return this.#wait(message.hidden);
        if (message.kind === 'frames' || message.kind === 'closed')
            return this.#each(message);
        if (!('tab' in message) || message.tab !== this.#tab)
            return;
        const line = this.#lines.get(message.line);
        if (message.kind === 'opened')
            this.#opened(line, message);
        if (message.kind === 'frame')
            line?.sink.frame(message.text);
        if (message.kind === 'refused')
            this.#refused(message);
    }
    /**
     * Lines that are not let in yet go on waiting: it is known that somebody sees to it. A browser slows down pages
     * that are not looked at, so one that is looked at does it itself.
     */
    #wait(hidden) {
        const waiting = [...this.#lines.values()].filter(({ source }) => source === undefined);
        if (waiting.length && hidden && !document.hidden)
            return this.#queue({ steal: true });
        for (const { sink } of waiting)
            sink.frame(PING);
    }
    #opened(line, { source, frames }) {
        if (!line)
            return;
        line.source = source;
        const { log, position } = JSON.parse(frames[0]);
        this.#began ??= `${log}:${position}`;
        for (const text of frames)
            line.sink.frame(text);
    }
    #each(message) {
        for (const [id, { source, sink }] of [...this.#lines]) {
            if (source !== message.source)
                continue;
            if (message.kind === 'frames')
                sink.frame(message.text);
            else
                this.#end(id, message.code, message.reason);
        }
    }
    /** There is no connection to go over to, so that there is none at all. */
    #refused({ line, code, reason }) {
        this.#end(line, code, reason);
        for (const [id, { former }] of [...this.#lines])
            if (former)
                this.#end(id, code, reason);
    }
    #end(id, code, reason) {
        const line = this.#lines.get(id);
        this.#lines.delete(id);
        line?.sink.closed(code, reason);
    }
    /** Another tab serves from now on, or this one: whoever was let in goes over to it, the others ask it. */
    #turn(hub) {
        if (this.#hub && this.#hub.id !== hub)
            this.#abdicate();
        this.#served = hub;
        for (const [id, line] of [...this.#lines]) {
            if (line.source === undefined)
                this.#enter(id);
            else if (!line.former)
                line.sink.frame(MOVE);
            line.former = line.source !== undefined;
        }
    }
    /** Ask the tab that serves whether it is still there, and take its place if it is not. */
    #watch() {
        this.#timer = setTimeout(() => {
            this.#watch();
            if (this.#hub)
                return;
            if (this.#unanswered < UNANSWERED)
                this.#tell({ tab: this.#tab, kind: 'ask' });
            else
                this.#queue({ steal: true });
            this.#unanswered = this.#unanswered < UNANSWERED ? this.#unanswered + 1 : 0;
        }, ASK * (0.75 + Math.random() / 2)); // not all tabs at once
    }
}
function rest(query) {
    const without = new URLSearchParams(query);
    without.delete('resume');
    return without;
}
