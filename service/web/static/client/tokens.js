import { clock } from './decisions.js';
const LONGEST_TIMER = 2 ** 31 - 1;
/** The token: when there has to be another one, and whether there can be. */
export class Tokens {
    get;
    refresh;
    current;
    #clock = {};
    /** It was got because another was refused, and nothing has welcomed it yet. */
    #renewed = false;
    #timer;
    /** `refresh` is called when most of the token's life is over, with the failures so far. */
    constructor(token, get, refresh) {
        this.get = get;
        this.refresh = refresh;
        this.hold(token);
    }
    /** As the token has it, which need not be what the service makes of it. */
    get user() {
        return this.#clock.user;
    }
    /** Returns one that is good as far as is known; fails as the application's function does. */
    async fresh() {
        if (this.get && (!this.current || Date.now() >= this.#clock.refreshAt))
            this.hold(await this.get());
        return this.current;
    }
    async another() {
        return this.get();
    }
    hold(token) {
        this.current = token;
        this.#clock = clock(token, Date.now());
        const { refreshAt } = this.#clock;
        this.rest();
        if (this.get && refreshAt)
            this.wait(Math.min(refreshAt - Date.now(), LONGEST_TIMER));
    }
    wait(duration, failures = 0) {
        this.rest();
        this.#timer = setTimeout(() => this.refresh(failures), duration);
    }
    rest() {
        clearTimeout(this.#timer);
    }
    /** Whether there is, or can be had, another token than the one that was refused. */
    isRenewable(refused) {
        return !!this.get && (refused !== this.current || !this.#renewed);
    }
    refused(token) {
        if (token !== this.current)
            return;
        this.current = undefined;
        this.#renewed = true;
    }
    /** What was refused before is forgotten. A refresh that was due before can be made now. */
    welcomed() {
        this.#renewed = false;
        if (this.get && Date.now() >= this.#clock.refreshAt)
            this.wait(0);
    }
}
