const OPENING = 15_000;
const PROBE = 5_000;
/** One connection, and whether it is alive. */
export class Link {
    answered;
    token;
    /** The server's own word about the end. */
    told;
    #owner;
    #connection;
    /** When something was last heard. */
    #heard = 0;
    /** Milliseconds of silence after which it is dead. */
    #patience = OPENING;
    #timer;
    #over = false;
    /** `answered`: the server answered over HTTP right before. */
    constructor(transport, request, answered, owner) {
        this.answered = answered;
        this.token = request.token;
        this.#owner = owner;
        this.#connection = transport.open(request, {
            frame: (text) => this.#receive(text),
            closed: (code, reason) => this.#end(code, reason),
        });
        this.#guard(OPENING);
    }
    get silent() {
        return !this.#heard;
    }
    send(command) {
        this.#connection.send(JSON.stringify(command));
    }
    /** Dead, from now on, after two heartbeats without a sign of life. */
    beat(seconds) {
        this.#patience = seconds * 2000;
        this.#guard(this.#patience);
    }
    /** Dead unless something is heard very soon. */
    probe() {
        this.#guard(PROBE);
        this.send({ type: 'ping' });
    }
    /** Lets go of it; its owner hears nothing more. */
    close() {
        this.#over = true;
        clearTimeout(this.#timer);
        this.#connection.close();
    }
    #receive(text) {
        if (this.#over)
            return;
        this.#heard = performance.now();
        this.#owner.received(this, JSON.parse(text));
    }
    #end(code, reason) {
        if (!this.#over)
            this.#owner.lost(this, code, reason);
    }
    #guard(wait) {
        clearTimeout(this.#timer);
        const heard = this.#heard;
        this.#timer = setTimeout(() => {
            if (this.#heard > heard)
                this.#guard(Math.max(0, this.#heard + this.#patience - performance.now()));
            else
                this.#end(1006, 'nothing was heard');
        }, wait);
    }
}
