/** What a bell has on the screen: built by hand, for pages that allow no HTML in strings. */
import { styled } from './bell-style.js';
export const ENGLISH = {
    title: 'Notifications',
    unread: 'Unread',
    markAll: 'Mark all as read',
    more: 'Show older',
    empty: 'You are all caught up',
    emptyHint: 'New notifications will show up here.',
    loading: 'Loading…',
    failed: 'This did not work',
    retry: 'Try again',
    offline: 'Offline',
    unauthorized: 'Signed out',
    closed: 'Disconnected',
    count: (unread) => `${unread} unread`,
    orMore: (unread) => `${unread} or more`,
    arrived: (count, what) => (count === 1 ? `New notification: ${what}` : `${count} new notifications`),
};
/** Make an element; texts become text, whatever is in them. */
export function make(tag, attributes = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
        element.setAttribute(name, value);
    element.append(...inside);
    return element;
}
const BELL = [
    'M6 9.5a6 6 0 0 1 12 0c0 5.2 1.6 6.6 2.3 7.4a.6.6 0 0 1-.5 1H4.2a.6.6 0 0 1-.5-1C4.4 16.1 6 14.7 6 9.5Z',
    'M9.7 20.6a2.6 2.6 0 0 0 4.6 0',
];
const TICK = ['M4.5 12.5l5 5 10-11'];
function drawing(paths) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const attributes = {
        class: 'icon', viewBox: '0 0 24 24', fill: 'none', stroke: 'currentColor', 'stroke-width': '1.7',
        'stroke-linecap': 'round', 'stroke-linejoin': 'round', 'aria-hidden': 'true',
    }; // prettier-ignore
    for (const [name, value] of Object.entries(attributes))
        svg.setAttribute(name, value);
    for (const d of paths) {
        const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
        path.setAttribute('d', d);
        svg.append(path);
    }
    return svg;
}
/** The elements of a bell that change. */
export class View {
    badge = make('span', { class: 'badge', part: 'badge', 'aria-hidden': 'true', hidden: '' });
    icon = make('slot', { name: 'icon' }, drawing(BELL));
    button = make('button', {
        class: 'bell', part: 'button', type: 'button', 'aria-haspopup': 'dialog', 'aria-expanded': 'false', 'aria-controls': 'panel',
    }, this.icon, this.badge); // prettier-ignore
    title = make('h2', { id: 'title', part: 'title' });
    status = make('span', { class: 'status', part: 'status', role: 'status' });
    all = make('button', { class: 'quiet all', part: 'mark-all', type: 'button' });
    list = make('ul', { class: 'list', part: 'list', role: 'list', 'aria-labelledby': 'title' });
    more = make('button', { class: 'quiet more', part: 'more', type: 'button', hidden: '' });
    note = make('div', { class: 'note', part: 'note', hidden: '' });
    ghosts = make('div', { class: 'ghosts', hidden: '' }, make('span', { class: 'unseen' }), ...[1, 2, 3].map(ghost));
    retry = make('button', { class: 'quiet', part: 'retry', type: 'button' });
    body = make('div', { class: 'body', part: 'body' }, this.ghosts, this.note, this.list, this.more);
    panel = make('div', {
        class: 'panel', part: 'panel', id: 'panel', role: 'dialog', 'aria-labelledby': 'title', tabindex: '-1', popover: 'manual',
    }, make('div', { class: 'head', part: 'head' }, this.title, this.status, this.all), this.body); // prettier-ignore
    spoken = make('div', { class: 'unseen', role: 'status', 'aria-live': 'polite' });
    constructor(root) {
        styled(root);
        root.append(this.button, this.panel, this.spoken);
    }
    /** Write the words that stay. */
    label(texts) {
        this.title.textContent = texts.title;
        this.all.textContent = texts.markAll;
        this.more.textContent = texts.more;
        this.retry.textContent = texts.retry;
        this.ghosts.firstElementChild.textContent = texts.loading;
    }
    /** Show what there is instead of a list. */
    instead(of, texts) {
        if (this.note.dataset['of'] === of)
            return;
        this.note.dataset['of'] = of;
        this.note.hidden = of === 'list';
        const round = make('span', { class: 'round' }, drawing(of === 'nothing' ? TICK : BELL));
        const [words, hint] = of === 'nothing' ? [texts.empty, make('span', {}, texts.emptyHint)] : [texts.failed, this.retry];
        const usual = [round, make('strong', {}, words), hint];
        this.note.replaceChildren(...(of === 'nothing' ? [slotted('empty', usual)] : usual));
    }
    /** Put the panel beside the button: below it where there is room, within the window in any case. */
    place() {
        const [at, width, height] = [this.button.getBoundingClientRect(), innerWidth, innerHeight];
        const style = this.panel.style;
        const [above, below] = [at.top - 16, height - at.bottom - 16];
        const upwards = below < 320 && above > below;
        style.maxBlockSize = `${Math.min(620, Math.max(160, upwards ? above : below))}px`;
        style.top = upwards ? 'auto' : `${at.bottom + 8}px`;
        style.bottom = upwards ? `${height - at.top + 8}px` : 'auto';
        const wide = this.panel.offsetWidth;
        const start = at.left + at.width / 2 > width / 2 ? at.right - wide : at.left;
        style.left = `${Math.max(8, Math.min(start, width - wide - 8))}px`;
    }
    /** Let the bell ring, for those who like motion. */
    ring() {
        this.icon.firstElementChild?.classList.remove('ring');
        requestAnimationFrame(() => this.icon.firstElementChild?.classList.add('ring'));
    }
}
function slotted(name, usual) {
    return make('slot', { name }, ...usual);
}
function ghost() {
    return make('div', { class: 'ghost', 'aria-hidden': 'true' }, make('i'), make('i'), make('i'));
}
