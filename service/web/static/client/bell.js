/** `<tidings-bell url token>`: a bell with a number, and behind it the inbox. */
import { Panel } from './bell-panel.js';
import { Session } from './bell-session.js';
import { ENGLISH } from './bell-view.js';
/** Where there is no page, as on a server, the element can be imported but not made. */
const Base = globalThis.HTMLElement ?? class {
};
/** What a page may have set before the element was defined. */
const PROPERTIES = ['url', 'token', 'device', 'getToken', 'client', 'render', 'texts'];
const DEVICE = 'tidings:bell';
export class TidingsBell extends Base {
    static observedAttributes = ['url', 'token', 'device', 'lang'];
    #panel = new Panel(this, this.attachShadow({ mode: 'open' }));
    #token;
    #getToken;
    #client;
    #known;
    #planned = false;
    connectedCallback() {
        for (const name of PROPERTIES)
            this.#upgrade(name);
        this.#panel.redraw();
        this.#plan();
    }
    disconnectedCallback() {
        this.#panel.hide();
        this.#plan();
    }
    attributeChangedCallback(name) {
        if (name === 'lang')
            this.#panel.redraw();
        else
            this.#plan();
    }
    /** Where the service is; by default where the page is. */
    get url() {
        return new URL(this.getAttribute('url') ?? '/', document.baseURI).href.replace(/\/+$/, '');
    }
    set url(url) {
        this.setAttribute('url', url);
    }
    /** A token, as the attribute gives it too; `getToken` also gives the next one. */
    get token() {
        return this.#token ?? this.getAttribute('token') ?? undefined;
    }
    set token(token) {
        this.#token = token;
        this.#plan();
    }
    get getToken() {
        return this.#getToken;
    }
    set getToken(getToken) {
        this.#getToken = getToken;
        this.#plan();
    }
    /** Which receiver of the user this is; by default one of its own for all bells of this browser. */
    get device() {
        return this.getAttribute('device') ?? ownDevice();
    }
    set device(device) {
        this.setAttribute('device', device);
    }
    /** A client that the page has already; without it the bell makes one. */
    get client() {
        return this.#client;
    }
    set client(client) {
        this.#client = client;
        this.#plan();
    }
    /** Says what is shown of an event: a node, or text. */
    get render() {
        return this.#panel.render;
    }
    set render(render) {
        this.#panel.render = render;
        this.#panel.redraw();
    }
    /** The words that it uses, English by default; those that are given replace those. */
    get texts() {
        return this.#panel.texts;
    }
    set texts(texts) {
        this.#panel.texts = { ...ENGLISH, ...texts };
        this.#panel.redraw();
    }
    /** How many are unread, as last known. */
    get unread() {
        return this.#panel.session?.inbox.badge.unread ?? 0;
    }
    show() {
        this.#panel.show();
    }
    hide() {
        this.#panel.hide();
    }
    /** Begin anew, once all that is being set has been set. */
    #plan() {
        if (this.#planned)
            return;
        this.#planned = true;
        queueMicrotask(() => {
            this.#planned = false;
            this.#panel.session?.end();
            this.#panel.session = this.isConnected && (this.token || this.#getToken) ? this.#begin() : undefined;
            this.#panel.paint();
        });
    }
    #begin() {
        this.#known = undefined;
        const { url, device } = this;
        const token = (refused) => this.#current(refused);
        const changed = () => this.#panel.paint();
        const only = this.#getToken ? undefined : this.token;
        return new Session({ url, device, token, only, client: this.#client }, changed, (item) => this.#panel.arrived(item));
    }
    #current(refused) {
        if (!this.#getToken)
            return Promise.resolve(this.token ?? '');
        if (refused || !this.#known) {
            const asked = (this.#known = Promise.resolve().then(this.#getToken));
            asked.catch(() => this.#known === asked && (this.#known = undefined));
        }
        return this.#known;
    }
    #upgrade(name) {
        if (!Object.hasOwn(this, name))
            return;
        const value = this[name];
        delete this[name];
        Object.assign(this, { [name]: value });
    }
}
/** One for all bells of this browser, and none of the page's own clients: each acknowledges for itself. */
function ownDevice() {
    const made = `bell-${crypto.getRandomValues(new BigUint64Array(1))[0].toString(36)}`;
    try {
        const kept = localStorage.getItem(DEVICE) ?? made;
        localStorage.setItem(DEVICE, kept);
        return kept;
    }
    catch {
        return made; // a page without storage: a device for as long as it is open
    }
}
if (globalThis.customElements && !customElements.get('tidings-bell'))
    customElements.define('tidings-bell', TidingsBell);
