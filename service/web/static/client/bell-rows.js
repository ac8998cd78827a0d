/** The rows of a bell's list: made once for each event, kept in order, walked through by arrow keys. */
import { ago, inFull, shown } from './bell-item.js';
import { make } from './bell-view.js';
export class Rows {
    #rows = new Map();
    #list;
    #current;
    constructor(list) {
        this.#list = list;
        list.addEventListener('focusin', (event) => this.#walk(this.#of(event)));
    }
    /** The event whose row a click or key went to. */
    at(event) {
        return this.#of(event)?.item;
    }
    /** Show these, newest first; rows that are there stay as they are. */
    show(items, manner) {
        const still = new Set(items.map(({ position }) => position));
        for (const position of [...this.#rows.keys()])
            if (!still.has(position))
                this.#remove(position);
        items.forEach((item, index) => {
            const row = this.#rows.get(item.position) ?? this.#add(item, manner);
            mark(row, item);
            if (this.#list.children[index] !== row.line)
                this.#list.insertBefore(row.line, this.#list.children[index] ?? null);
        });
        if (!this.#current)
            this.#walk(this.#rows.get(items[0]?.position ?? -1));
        this.tick(manner.language);
    }
    /** Say anew how long ago all that was. */
    tick(language) {
        for (const { item, time } of this.#rows.values()) {
            const words = ago(item.time, Date.now(), language);
            if (time.textContent !== words)
                time.textContent = words;
        }
    }
    /** Forget all rows: another way of showing them has been set. */
    clear() {
        for (const position of [...this.#rows.keys()])
            this.#remove(position);
    }
    focusAt(index) {
        ;
        this.#list.children[index]?.firstElementChild?.focus();
    }
    /** Focus the row by which the list is entered; tells whether there is one. */
    focus() {
        this.#current?.link.focus();
        return this.#current !== undefined;
    }
    /** Go to another row by a key; tells whether the key was one for that. */
    step(key) {
        const links = [...this.#rows.values()].map(({ link }) => link).sort(inPage);
        const at = this.#current ? links.indexOf(this.#current.link) : 0;
        const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[key];
        if (to === undefined)
            return false;
        links[Math.max(0, Math.min(to, links.length - 1))]?.focus();
        return true;
    }
    #of(event) {
        const line = event.target.closest('li');
        return [...this.#rows.values()].find((row) => row.line === line);
    }
    #walk(row) {
        this.#current?.link.setAttribute('tabindex', '-1');
        row?.link.setAttribute('tabindex', '0');
        this.#current = row;
    }
    #add(item, manner) {
        const row = drawn(item, manner);
        this.#rows.set(item.position, row);
        return row;
    }
    #remove(position) {
        const row = this.#rows.get(position);
        this.#rows.delete(position);
        const had = row.line.contains(this.#list.getRootNode().activeElement);
        const beside = row.line.nextElementSibling ?? row.line.previousElementSibling;
        row.line.remove();
        if (row !== this.#current)
            return;
        this.#walk([...this.#rows.values()].find(({ line }) => line === beside));
        if (had && !this.focus())
            this.#list.closest('[role=dialog]').focus();
    }
}
const inPage = (a, b) => (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);
function drawn(item, manner) {
    const { title, text, url } = shown(item, document.baseURI);
    const unread = make('span', { class: 'unseen' }, `${manner.unread} `);
    const own = rendered(item, manner);
    const first = typeof own === 'object' ? own : make('span', { class: 'title', part: 'item-title' }, own ?? title);
    const words = make('span', { class: 'words' }, first);
    if (text && own === undefined)
        words.append(make('span', { class: 'text', part: 'item-text' }, text));
    const time = make('time', { class: 'time', part: 'time', datetime: item.time, title: inFull(item.time, manner.language) });
    const attributes = { tabindex: '-1', ...(url ? { href: url } : { type: 'button' }) };
    const link = make(url ? 'a' : 'button', attributes, unread, words, time);
    return { item, line: make('li', { class: 'row', part: 'row', role: 'listitem' }, link), link, unread, time };
}
function rendered(item, { render, failed }) {
    try {
        return render?.(item) ?? undefined;
    }
    catch (error) {
        failed(error);
        return undefined;
    }
}
function mark(row, item) {
    row.item = item;
    row.unread.hidden = item.read;
    row.link.className = item.read ? 'item' : 'item unread';
    row.link.setAttribute('part', row.link.className);
}
