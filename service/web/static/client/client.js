import { Backlog } from './backlog.js';
import { Commands, errorOf, isLost, TidingsError } from './commands.js';
import { baseOf, pause, rest, verdict } from './decisions.js';
import { Link } from './link.js';
import { Listeners } from './listeners.js';
import { defaultStore } from './store.js';
import { Tokens } from './tokens.js';
import { websocket } from './websocket.js';
/** Milliseconds between two acknowledgements. */
const ACK = 100;
/** Which frames have their place between the events, and as what they are watched. */
const PLACED = {
    event: 'event', gap: 'gap', recalled: 'recalled', inbox_read: 'read', joined_room: 'room', left_room: 'room', live: 'live',
};
/** Acts: opens, hears, hands over, acknowledges, waits. What is right is decided by its parts. */
export class Client {
    state = 'closed';
    reason;
    user;
    device;
    #options;
    #url;
    #store;
    #tokens;
    #backlog = new Backlog();
    #commands;
    #listeners = new Listeners();
    /** What each connection has to be told, by room. */
    #repeats = new Map();
    #transport;
    #recalled;
    /** The connection in use, and the one that is to take its place. */
    #link;
    #next;
    /** Counts attempts: one that finds another number has been overtaken. */
    #attempt = 0;
    /** An attempt is under way. */
    #opening = false;
    /** When the next attempt is due. */
    #retryAt;
    #retryTimer;
    /** Who the last token said that the user is. */
    #claimed;
    /** It was the server who said how long to wait. */
    #bidden = false;
    #failures = 0;
    /** Nothing at all was heard at the last attempt. */
    #blocked = false;
    #working = false;
    #acked;
    #ackTimer;
    constructor(options) {
        this.#options = options;
        this.#url = baseOf(options.url);
        this.#store = options.store ?? defaultStore();
        this.#transport = options.transport ?? websocket(options.WebSocket ?? WebSocket);
        this.#tokens = new Tokens(options.token, options.getToken, (failures) => void this.#refresh(failures));
        this.#commands = new Commands(options.timeout ?? 30_000, () => this.#letGo());
        this.connect();
    }
    get position() {
        return this.#backlog.kept?.position;
    }
    // What the application calls
    on(type, handler) {
        return this.#listen('event', type, handler);
    }
    watch(kind, handler) {
        return this.#listen(kind, '*', handler);
    }
    [Symbol.asyncIterator]() {
        return this.#listeners.iterate((handler) => this.on('*', handler), this.reason);
    }
    async join(room, { durable, presence } = {}) {
        const command = { type: 'join_room', room, durable, presence };
        // Before the answer: what is left meanwhile must not be joined again.
        if (durable === false || presence)
            this.#repeats.set(room, command);
        await this.#ask(command).catch((error) => {
            if (this.#repeats.get(room) === command)
                this.#repeats.delete(room);
            throw error;
        });
    }
    async leave(room) {
        this.#repeats.delete(room);
        await this.#ask({ type: 'leave_room', room });
    }
    async publish(to, event, data = null, options = {}) {
        const { ephemeral, echo, id = ephemeral ? undefined : unique() } = options;
        const answer = await this.#ask({ type: 'publish', to, event, data, id, echo, ephemeral }, !ephemeral);
        return { position: answer.position, id: answer.id };
    }
    async presence(room) {
        return (await this.#ask({ type: 'presence', room })).users;
    }
    async rooms() {
        return (await this.#ask({ type: 'rooms' })).rooms;
    }
    async members(room) {
        return (await this.#ask({ type: 'room_members', room })).members;
    }
    connect() {
        if (this.state !== 'closed' && this.state !== 'unauthorized')
            return;
        this.reason = undefined;
        this.#failures = 0;
        this.#tokens.welcomed();
        this.#attend('addEventListener');
        void this.#open();
    }
    close() {
        if (this.reason)
            return;
        this.#sendAck();
        this.#end('closed', { code: 1000, reason: 'closed by the application' });
    }
    // Handling
    #listen(kind, pattern, handler) {
        const off = this.#listeners.add(kind, pattern, handler);
        void this.#work();
        return off;
    }
    /** Works off what has come, as long as somebody listens: handled, kept, acknowledged, one after the other. */
    async #work() {
        if (this.#working)
            return;
        this.#working = true;
        for (let item; this.#listeners.heard && (item = this.#backlog.next());) {
            const { frame } = item;
            if (await this.#listeners.tell(PLACED[frame.type], noticeOf(frame), frame.event)) {
                await this.#keep(this.#backlog.handled(item));
            }
            else {
                this.#backlog.back(item);
            }
        }
        this.#working = false;
        if (this.#backlog.full && this.#backlog.empty)
            this.#comeBack();
    }
    async #keep(kept) {
        if (!kept)
            return;
        try {
            await this.#store.set(this.#key(), JSON.stringify(kept));
        }
        catch (error) {
            this.#listeners.report(error);
        }
        this.#acknowledge();
    }
    /** At most once in a while, and at once where all is worked off. */
    #acknowledge() {
        if (this.#ackTimer)
            return;
        if (this.#backlog.empty)
            this.#sendAck();
        this.#ackTimer = setTimeout(() => {
            this.#ackTimer = undefined;
            if (this.#sendAck())
                this.#acknowledge();
        }, ACK);
    }
    #sendAck() {
        const { position } = this;
        if (!this.#link || position === undefined || position === this.#acked)
            return false;
        this.#acked = position;
        this.#link.send({ type: 'ack', position });
        return true;
    }
    // Connecting
    async #open() {
        const attempt = ++this.#attempt;
        clearTimeout(this.#retryTimer);
        this.#retryAt = undefined;
        this.#opening = true;
        this.#lack();
        try {
            const answered = await this.#isAnswered();
            const request = await this.#request();
            if (attempt === this.#attempt)
                this.#next = new Link(this.#transport, request, answered, this);
        }
        catch (error) {
            if (attempt !== this.#attempt)
                return;
            this.#listeners.report(error);
            this.#opening = false;
            this.#waitLonger();
        }
    }
    async #request() {
        await (this.#recalled ??= this.#recall());
        const token = await this.#tokens.fresh();
        if (this.#tokens.user !== this.#claimed)
            this.user = undefined;
        this.#claimed = this.#tokens.user;
        const query = new URLSearchParams({ device: this.device, ack: 'client' });
        const resume = this.#backlog.resume(this.#tokens.user, this.user);
        if (resume)
            query.append('resume', resume);
        if (this.#options.presence)
            query.append('presence', '1');
        return { url: this.#url, token, query };
    }
    /** Finds out which device this is, and how far it has got. */
    async #recall() {
        try {
            this.device = this.#options.device ?? (await this.#store.get('tidings:device')) ?? undefined;
            if (!this.device) {
                const made = `web-${unique()}`;
                await this.#store.set('tidings:device', made);
                this.device = made;
            }
            this.#backlog.recall(await this.#store.get(this.#key()));
        }
        catch (error) {
            this.#recalled = undefined;
            throw error;
        }
    }
    #key() {
        return `tidings:${this.#url}:${this.device}`;
    }
    /** Whether the server can be reached, where it is not known why no socket came about. */
    async #isAnswered() {
        if (!this.#blocked || !this.#options.fallback)
            return false;
        return fetch(`${this.#url}/healthz`, { signal: AbortSignal.timeout(5_000) }).then(({ ok }) => ok, () => false);
    }
    /** Goes on with a newer token: on the same connection, or on a new one where that cannot be told. */
    async #refresh(failures) {
        if (!this.#link)
            return; // the next attempt gets one
        try {
            const token = await this.#tokens.another();
            const told = await this.#ask({ type: 'refresh_token', token }, false).catch(unlessUnsupported);
            this.#tokens.hold(token);
            if (!told && !this.#opening)
                void this.#open();
        }
        catch (error) {
            if (!isLost(error))
                this.#listeners.report(error);
            this.#tokens.wait(this.#pause(failures), failures + 1);
        }
    }
    // Hearing
    received(link, frame) {
        this.#blocked = false;
        if (frame.type === 'welcome')
            this.#welcome(link, frame);
        else if (frame.type === 'disconnect')
            this.#bid(link, frame);
        else if (PLACED[frame.type])
            this.#take(frame);
        else if (frame.type.startsWith('user_'))
            void this.#listeners.tell('presence', frame);
        else if (!this.#commands.answer(frame) && frame.type === 'error')
            this.#listeners.report(errorOf(frame));
    }
    #take(frame) {
        this.#backlog.take(frame);
        if (frame.type === 'live') {
            this.#failures = 0;
            this.#acked = undefined; // until now this connection may have been sent less than what is handled
            this.#acknowledge();
            this.#become('live');
        }
        this.#letGo();
        void this.#work();
    }
    #welcome(link, frame) {
        this.#drop(this.#link);
        this.#link = link;
        this.#next = this.#acked = undefined;
        this.#opening = false;
        this.#tokens.welcomed();
        link.beat(frame.heartbeat);
        this.user = frame.user;
        this.#backlog.welcome(frame);
        for (const answer of this.#commands.connected((command) => link.send(command), this.#repeats.values())) {
            answer.catch((error) => isLost(error) || this.#listeners.report(error));
        }
        this.#become('catching-up');
    }
    /** The server is going to close: this connection goes on until then, and the server says when to come back. */
    #bid(link, frame) {
        link.told = frame;
        if (frame.reconnect && frame.retry_after_ms >= 0 && link === this.#link && !this.#opening && !this.#retryAt) {
            this.#wait(frame.retry_after_ms, true);
        }
    }
    lost(link, lostCode, lostReason) {
        const { code = lostCode, reason = lostReason, retry_after_ms = -1 } = link.told ?? {};
        if (link === this.#next)
            this.#failed(link);
        this.#drop(link, code);
        const what = verdict(code, this.#tokens.isRenewable(link.token));
        if (what === 'unauthorized' || what === 'closed')
            return this.#end(what, { code, reason });
        if (what === 'renew')
            this.#tokens.refused(link.token);
        if (this.#opening || this.#retryAt || this.#isDeaf())
            this.#lack();
        else if (what === 'renew')
            void this.#open();
        else if (what === 'rest')
            this.#wait(rest(Math.random()), true);
        else if (retry_after_ms >= 0)
            this.#wait(retry_after_ms, true);
        else
            this.#waitLonger();
    }
    #failed(link) {
        this.#opening = false;
        if (!link.silent)
            return;
        this.#blocked = true;
        if (link.answered)
            this.#transport = this.#options.fallback;
    }
    // Leaving and coming back
    #pause(failures) {
        const { min, max } = this.#options.backoff ?? {};
        return pause(failures, Math.random(), min, max);
    }
    #waitLonger() {
        this.#wait(this.#pause(this.#failures++));
    }
    #wait(duration, bidden = false) {
        this.#bidden = bidden;
        this.#retryAt = Date.now() + duration;
        this.#retryTimer = setTimeout(() => void this.#open(), duration);
        this.#lack();
    }
    #drop(link, code) {
        link?.close();
        if (link === this.#next)
            this.#next = undefined;
        if (link !== this.#link)
            return;
        this.#link = undefined;
        this.#commands.lost(code);
    }
    /** There is no room, and nobody waits for an answer: a connection is of no use. */
    #isDeaf() {
        return this.#backlog.full && !this.#backlog.empty && !this.#commands.size;
    }
    #letGo() {
        if (!this.#link || !this.#isDeaf())
            return;
        this.#drop(this.#link);
        this.#lack();
    }
    /** There is room again: the rest is asked for. */
    #comeBack() {
        this.#backlog.full = false;
        this.#drop(this.#link);
        if (this.#opening || this.#retryAt)
            this.#lack();
        else if (!this.reason)
            void this.#open();
    }
    #end(state, reason) {
        this.#attempt++;
        this.#opening = false;
        clearTimeout(this.#retryTimer);
        clearTimeout(this.#ackTimer);
        this.#retryAt = this.#ackTimer = undefined;
        this.#tokens.rest();
        this.#attend('removeEventListener');
        this.#drop(this.#link);
        this.#drop(this.#next);
        this.#backlog.clear();
        this.reason = reason;
        this.#commands.end(new TidingsError('closed', reason.reason));
        this.#become(state);
    }
    #become(state) {
        if (state === this.state && state !== 'offline')
            return;
        this.state = state;
        const retryAt = state === 'offline' ? this.#retryAt : undefined;
        void this.#listeners.tell('state', { state, retryAt, reason: this.reason });
    }
    /** Says that there is no connection, where there is none. */
    #lack() {
        if (!this.#link)
            this.#become(this.#opening ? 'connecting' : 'offline');
    }
    /** The page is looked at again, or the network is back: what waited or slept is not believed. */
    #wake = ({ type }) => {
        if (type === 'visibilitychange' && document.hidden)
            return;
        if (this.#link)
            this.#link.probe();
        else if (this.#retryAt && !this.#bidden)
            void this.#open();
    };
    #attend(how) {
        globalThis.document?.[how]('visibilitychange', this.#wake);
        for (const name of ['online', 'pageshow'])
            globalThis.window?.[how]?.(name, this.#wake); // React Native's window has none of it
    }
    #ask(command, again) {
        if (this.reason)
            return Promise.reject(new TidingsError('closed', this.reason.reason));
        const answer = this.#commands.ask(command, again);
        if (this.#backlog.full && !this.#link && !this.#opening && !this.#retryAt)
            void this.#open();
        return answer;
    }
}
function unlessUnsupported(error) {
    if (error.code !== 'unsupported')
        throw error;
}
function noticeOf(frame) {
    if (frame.type !== 'event')
        return frame;
    const { event, ...rest } = frame;
    return { ...rest, type: event };
}
/** Not `crypto.randomUUID`, which pages without TLS lack. */
function unique() {
    return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
