/**
 * The tab that has the socket serves all tabs by it, as the service serves connections: each tab has lines, on
 * which it is welcomed, gets frames, and acknowledges. The socket is acknowledged what all tabs that answer have.
 */
/** Milliseconds after which a tab that says nothing is not waited for. */
export const SILENCE = 5000;
/** Frames that are kept for tabs that are still to come; who needs more gets it from the service. */
const KEPT = 1000;
/** Tells a client to go on by another line, and to use this one until it has that. */
export const MOVE = JSON.stringify({ type: 'disconnect', code: 1012, reason: 'another line', reconnect: true, retry_after_ms: 0 });
/** What has a position, and is to be handled. */
const PLACED = new Set(['event', 'gap', 'recalled', 'inbox_read', 'joined_room', 'left_room']);
export class Hub {
    id;
    #tab;
    #transport;
    #post;
    #request;
    /** The connection that serves, and one that is to follow it. */
    #source;
    #next;
    #waiting = [];
    #tabs = new Map();
    #log = '';
    /** What is kept begins after `floor`; up to `acked` the service knows it to be handled. */
    #recent = [];
    #floor = 0;
    #acked = 0;
    #last = 0;
    #refs = new Map();
    #count = 0;
    #timer;
    /** `tab` is the one that this hub lives in: it alone lets connections be opened, for its client knows when. */
    constructor(id, tab, transport, post) {
        this.id = id;
        this.#tab = tab;
        this.#transport = transport;
        this.#post = post;
    }
    /** Take a message of a tab; there is a `request` where it is this very tab that opens a line. */
    hear(message, request) {
        const tab = this.#tabs.get(message.tab);
        if (tab)
            tab.since = Date.now();
        if (message.kind === 'open')
            this.#asked(message, request);
        if (message.kind === 'text')
            this.#told(message);
        if (message.kind === 'shut')
            this.#shut(message);
        if (message.kind === 'bye')
            this.#forget(message.tab);
        if (message.kind === 'ask')
            setTimeout(() => this.#here());
    }
    /** Let go of everything: another tab takes over, or none is left. */
    stop() {
        clearTimeout(this.#timer);
        for (const tab of this.#tabs.keys())
            this.#forget(tab);
        this.#source?.connection.close();
        this.#next?.connection.close();
        this.#source = this.#next = undefined;
    }
    /** Called by a timer: a page that is frozen hears other tabs, and its timers and sockets stand still. */
    #here() {
        this.#post({ hub: this.id, kind: 'here', hidden: document.hidden });
    }
    #asked(opening, request) {
        if (request)
            this.#request = request;
        if (this.#source && !this.#source.ending)
            return this.#attach(opening);
        this.#waiting.push(opening);
        if (request)
            this.#next ??= this.#open(this.#resume(opening.resume), (source, frame, text) => this.#came(source, frame, text));
    }
    #told({ tab, line, text }) {
        const frame = JSON.parse(text);
        const apart = this.#tabs.get(tab)?.apart.get(line);
        if (frame.type === 'refresh_token' && tab === this.#tab)
            this.#request = { ...this.#request, token: frame['token'] };
        if (frame.type === 'ack')
            return this.#handled(tab, line, frame.position);
        if (apart || frame.ref === undefined)
            return (apart ?? this.#source)?.connection.send(text);
        this.#refs.set((this.#count += 1), { tab, line, ref: frame.ref });
        this.#source?.connection.send(JSON.stringify({ ...frame, ref: this.#count }));
    }
    #shut({ tab, line }) {
        this.#waiting = this.#waiting.filter((opening) => opening.tab !== tab || opening.line !== line);
        this.#tabs.get(tab)?.apart.get(line)?.connection.close();
        this.#tabs.get(tab)?.apart.delete(line);
        if (tab !== this.#tab || this.#waiting.some((opening) => opening.tab === tab))
            return;
        this.#next?.connection.close();
        this.#next = undefined;
    }
    /** Let a line in: it gets what it has not had, out of what is kept, or by a connection of its own. */
    #attach({ tab, line, resume }) {
        const { id, welcome, live } = this.#source;
        const need = positionIn(resume, this.#log) ?? this.#acked;
        const { apart } = this.#tabs.get(tab) ?? { apart: new Map() };
        this.#tabs.set(tab, { handled: need, since: Date.now(), apart });
        if (need < this.#floor)
            return void apart.set(line, this.#openApart(tab, line, need));
        const missed = this.#recent.filter(({ position }) => position > need).map(({ text }) => text);
        const head = Math.max(welcome['head'], this.#last);
        const frames = [JSON.stringify({ ...welcome, position: need, head }), ...missed, ...(live ? [live] : [])];
        this.#post({ hub: this.id, kind: 'opened', tab, line, source: id, frames });
    }
    #openApart(tab, line, position) {
        const to = { hub: this.id, tab, line };
        return this.#open(`${this.#log}:${position}`, (source, frame, text) => {
            if (frame.type === 'welcome')
                this.#post({ ...to, kind: 'opened', source: source.id, frames: [text] });
            else
                this.#post({ ...to, kind: 'frame', text });
        }, (code, reason) => this.#post({ ...to, kind: 'refused', code, reason })); // prettier-ignore
    }
    #open(resume, came, closed = (code, reason, source) => this.#closed(source, code, reason)) {
        const query = new URLSearchParams(this.#request.query);
        if (resume)
            query.set('resume', resume);
        const source = { id: (this.#count += 1) };
        source.connection = this.#transport.open({ ...this.#request, query }, {
            frame: (text) => came(source, JSON.parse(text), text),
            closed: (code, reason) => closed(code, reason, source),
        }); // prettier-ignore
        return source;
    }
    #came(source, frame, text) {
        if (frame.type === 'welcome')
            return this.#welcomed(source, frame);
        if (frame.ref !== undefined)
            return this.#answer(frame);
        if (frame.type === 'live')
            source.live = text;
        if (frame.type === 'disconnect')
            source.ending = frame['reconnect'];
        if (frame.type === 'gap')
            this.#gap(frame['to']);
        if (PLACED.has(frame.type))
            this.#keep(frame.type === 'gap' ? frame['to'] : frame.position, text);
        this.#post({ hub: this.id, kind: 'frames', source: source.id, text });
    }
    #answer(frame) {
        const asked = this.#refs.get(frame.ref);
        this.#refs.delete(frame.ref);
        if (!asked)
            return;
        const { tab, line, ref } = asked;
        this.#post({ hub: this.id, kind: 'frame', tab, line, text: JSON.stringify({ ...frame, ref }) });
    }
    #welcomed(source, welcome) {
        const position = welcome.position;
        const before = this.#source;
        source.welcome = welcome;
        this.#source = source;
        this.#next = undefined;
        this.#refs.clear(); // what has not been answered by now is asked again
        if (welcome['log'] !== this.#log || position > this.#last)
            this.#begin(welcome['log'], position);
        for (const opening of this.#waiting.splice(0))
            this.#attach(opening);
        before?.connection.close();
    }
    /** Nothing is kept of what was before. */
    #begin(log, position) {
        this.#log = log;
        this.#recent = [];
        this.#floor = this.#acked = this.#last = position;
        for (const tab of this.#tabs.values())
            tab.handled = position;
    }
    /** Count on from where a gap ends, also where that is less than what had been reached. */
    #gap(to) {
        if (to >= this.#last)
            return;
        this.#recent = [];
        this.#floor = this.#acked = this.#last = to - 1;
        for (const tab of this.#tabs.values())
            tab.handled = Math.min(tab.handled, this.#last);
    }
    #keep(position, text) {
        if (position <= this.#last)
            return;
        for (const tab of this.#tabs.values())
            if (tab.handled >= this.#last)
                tab.since = Date.now();
        this.#last = position;
        this.#recent.push({ position, text });
        if (this.#recent.length > KEPT)
            this.#floor = this.#recent.shift().position;
        this.#timer ??= setTimeout(() => this.#look(), SILENCE);
    }
    #handled(id, line, position) {
        const tab = this.#tabs.get(id) ?? { handled: 0, since: Date.now(), apart: new Map() };
        this.#tabs.set(id, tab);
        tab.handled = position;
        const apart = tab.apart.get(line);
        if (apart && !apart.ending && position >= this.#floor) {
            apart.ending = true; // it has caught up: on its next line it gets what the others get
            this.#post({ hub: this.id, kind: 'frame', tab: id, line, text: MOVE });
        }
        this.#settle();
    }
    /** Acknowledge what all tabs have handled. */
    #settle() {
        const position = Math.min(this.#last, ...[...this.#tabs.values()].map(({ handled }) => handled));
        if (position <= this.#acked)
            return;
        this.#acked = position;
        this.#floor = Math.max(this.#floor, position);
        this.#recent = this.#recent.filter((kept) => kept.position > position);
        this.#source?.connection.send(JSON.stringify({ type: 'ack', position }));
    }
    /** Wait no longer for tabs that have gone, or are frozen. */
    #look() {
        const now = Date.now();
        this.#timer = undefined;
        for (const [id, { handled, since }] of this.#tabs)
            if (id !== this.#tab && handled < this.#last && now - since >= SILENCE)
                this.#forget(id);
        this.#settle();
        if (this.#acked < this.#last)
            this.#timer = setTimeout(() => this.#look(), SILENCE);
    }
    #forget(id) {
        for (const { connection } of this.#tabs.get(id)?.apart.values() ?? [])
            connection.close();
        this.#tabs.delete(id);
    }
    #closed(source, code, reason) {
        if (source === this.#next) {
            this.#next = undefined;
            for (const { tab, line } of this.#waiting.splice(0))
                this.#post({ hub: this.id, kind: 'refused', tab, line, code, reason });
        }
        if (source !== this.#source)
            return; // lines that are still on one that was replaced are about to leave it
        this.#source = undefined;
        this.#refs.clear();
        this.#post({ hub: this.id, kind: 'closed', source: source.id, code, reason });
    }
    /** Return where to resume: no tab may be behind that, for it acknowledges. */
    #resume(own) {
        const position = positionIn(own, this.#log) ?? positionIn(own);
        if (own === null || position === undefined)
            return undefined;
        const others = own.startsWith(`${this.#log}:`) ? [...this.#tabs.values()].map(({ handled }) => handled) : [];
        return `${own.slice(0, own.lastIndexOf(':'))}:${Math.min(position, ...others)}`;
    }
}
/** Return the position in `<log>:<position>`, where it is of this log. */
function positionIn(resume, log) {
    const cut = resume?.lastIndexOf(':') ?? -1;
    return resume && (log === undefined || resume.slice(0, cut) === log) ? Number(resume.slice(cut + 1)) : undefined;
}
