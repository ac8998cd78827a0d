const resets = ({ frame }) => frame.type === 'gap' && frame.reason !== 'retention';
/**
 * What has come and is not handled yet, in order, each once, whatever connection it came by.
 *
 * It holds `bound` frames. One more makes it `full`: then nothing is taken until all has been handled and
 * a new connection asks for the rest, which is in the log.
 */
export class Backlog {
    bound;
    kept;
    full = false;
    #log = '';
    #user = '';
    #seen = 0;
    #items = [];
    #working;
    constructor(bound = 1000) {
        this.bound = bound;
    }
    get empty() {
        return !this.#items.length && !this.#working;
    }
    /** Takes over what an earlier run has stored. */
    recall(text) {
        try {
            this.kept = JSON.parse(text) ?? undefined;
        }
        catch {
            // not ours, or not whole: what was handled comes again
        }
        this.#log = this.kept?.log ?? '';
        this.#user = this.kept?.user ?? '';
        this.#seen = this.kept?.position ?? 0;
    }
    /** What to say to the server as one of these users. */
    resume(...users) {
        return this.kept && users.includes(this.kept.user) ? `${this.kept.log}:${this.kept.position}` : undefined;
    }
    /** A position is good for one log and one user; what came from another log is handled, and counts for nothing. */
    welcome({ log, user }) {
        if (user !== this.#user)
            this.#items = [];
        if (user !== this.#user || log !== this.#log) {
            this.kept = undefined;
            this.#seen = 0;
        }
        this.#log = log;
        this.#user = user;
    }
    take(frame) {
        if (this.full || this.#isRepeated(frame))
            return;
        const item = { frame, log: this.#log, user: this.#user };
        if (resets(item))
            this.#forgetSince();
        if (this.#items.length >= this.bound) {
            this.full = true;
            return;
        }
        this.#items.push(item);
        this.#seen = placeOf(frame) ?? this.#seen;
    }
    /** Only a gap may lead back, and not one of retention. */
    #isRepeated(frame) {
        const place = placeOf(frame);
        return place !== undefined && place <= this.#seen && (frame.type !== 'gap' || frame.reason === 'retention');
    }
    /** A connection that was made anew tells anew of a gap that waits here, and sends anew what came after it. */
    #forgetSince() {
        const at = this.#working && resets(this.#working) ? 0 : this.#items.findIndex(resets);
        if (at >= 0)
            this.#items.length = at;
    }
    /** The first frame, which is then to be `handled` or put `back`. */
    next() {
        this.#working = this.#items.shift();
        return this.#working;
    }
    /** Returns what is to be kept from now on, if it has changed. */
    handled({ frame, log, user }) {
        this.#working = undefined;
        const position = placeOf(frame);
        if (position === undefined || log !== this.#log || user !== this.#user)
            return undefined;
        return (this.kept = { log, user, position });
    }
    back(item) {
        this.#working = undefined;
        if (item.user === this.#user)
            this.#items.unshift(item);
    }
    /** Forgets what has not been handled: it comes again, but for what is in hand. */
    clear() {
        this.#items = [];
        this.full = false;
        this.#seen = (this.#working && placeOf(this.#working.frame)) ?? this.kept?.position ?? 0;
    }
}
function placeOf(frame) {
    return frame.type === 'gap' ? frame.to : frame.position;
}
