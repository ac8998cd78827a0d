/** How the bell looks. What a page may change is a `--tidings-…` property, or a `part`. */
const COLOURS = {
    accent: ['#1d5fd6', '#8ab4ff'],
    surface: ['#ffffff', '#1b1e25'],
    raised: ['#f3f5f9', '#262a33'],
    text: ['#171a21', '#eceef2'],
    muted: ['#596273', '#a5aebd'],
    border: ['#e1e5ec', '#343a46'],
    badge: ['#cf222e', '#cf222e'],
    'badge-text': ['#ffffff', '#ffffff'],
};
const colours = (of) => Object.entries(COLOURS)
    .map(([name, pair]) => `--_${name}: var(--tidings-${name}, ${of(pair)});`)
    .join('\n    ');
const STYLE = `
:host {
    ${colours(([light]) => light)}
    --_size: var(--tidings-size, 40px);
    display: inline-block; position: relative; vertical-align: middle;
    inline-size: var(--_size); block-size: var(--_size);
    font: 400 14px/1.45 var(--tidings-font, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif);
    text-align: start;
}
@supports (color: light-dark(#000, #fff)) {
  :host {
    ${colours(([light, dark]) => `light-dark(${light}, ${dark})`)}
  }
}
:host([theme="light"]) { color-scheme: light; }
:host([theme="dark"]) { color-scheme: dark; }
:host([hidden]), [hidden] { display: none !important; }
*, ::before, ::after { box-sizing: border-box; }
button, a { font: inherit; color: inherit; text-align: inherit; text-decoration: none; }
button { margin: 0; padding: 0; border: 0; background: none; cursor: pointer; -webkit-tap-highlight-color: transparent; }
:focus-visible { outline: 2px solid var(--_accent); outline-offset: 2px; }
.unseen {
  position: absolute; inline-size: 1px; block-size: 1px; margin: -1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap;
}

.bell {
  position: relative; display: grid; place-items: center; inline-size: 100%; block-size: 100%;
  border-radius: 50%; transition: background-color .15s;
}
.bell:hover, .bell[aria-expanded="true"] { background: color-mix(in srgb, currentColor 10%, transparent); }
.bell:focus-visible { outline-color: currentColor; }
.icon { display: block; inline-size: 55%; block-size: 55%; transform-origin: 50% 10%; }
.ring { animation: ring .7s ease-in-out; }
@keyframes ring {
  20% { transform: rotate(14deg); } 40% { transform: rotate(-12deg); }
  60% { transform: rotate(8deg); } 80% { transform: rotate(-4deg); }
}
.badge {
  position: absolute; inset-block-start: 0; inset-inline-start: 52%; min-inline-size: 18px; block-size: 18px; padding-inline: 5px;
  border-radius: 9px; background: var(--_badge); color: var(--_badge-text);
  font-size: 11px; font-weight: 700; line-height: 18px; text-align: center; white-space: nowrap;
  font-variant-numeric: tabular-nums; pointer-events: none;
}

.badge.wide { inset-inline: auto -7px; }

.panel {
  position: fixed; inset: auto; z-index: 2147483000; margin: 0; padding: 0; overflow: hidden;
  display: flex; flex-direction: column; inline-size: min(var(--tidings-width, 400px), calc(100vw - 16px));
  background: var(--_surface); color: var(--_text); border: 1px solid var(--_border);
  border-radius: var(--tidings-radius, 14px);
  box-shadow: 0 1px 2px rgb(0 0 0 / .08), 0 12px 40px rgb(0 0 0 / .18);
}
.panel:not(.open) { display: none; }
.panel.open { animation: appear .14s ease-out; }
.panel:focus-visible { outline-offset: -3px; }
@keyframes appear { from { opacity: 0; transform: translateY(-6px); } }
.head {
  display: flex; align-items: center; gap: 10px; flex: none; min-block-size: 56px; padding-inline: 20px 12px;
  border-block-end: 1px solid var(--_border);
}
.head h2 { margin: 0; font-size: 16px; font-weight: 650; line-height: 24px; letter-spacing: -.005em; }
.status { display: flex; align-items: center; gap: 6px; min-inline-size: 0; font-size: 12px; color: var(--_muted); }
.status:not(:empty)::before { content: ""; flex: none; inline-size: 7px; block-size: 7px; border: 2px solid currentColor; border-radius: 50%; }
.quiet {
  padding: 7px 10px; border-radius: 8px; color: var(--_accent); font-size: 13px; font-weight: 600; white-space: nowrap;
}
.quiet:hover { background: var(--_raised); }
.quiet[aria-disabled="true"] { color: var(--_muted); background: none; cursor: default; }
.all { margin-inline-start: auto; }

.body { flex: 1; min-block-size: 264px; overflow: hidden auto; overscroll-behavior: contain; scrollbar-width: thin; }
.list { margin: 0; padding: 6px; list-style: none; }
.row + .row { margin-block-start: 1px; }
.item {
  position: relative; display: block; inline-size: 100%; padding: 11px 14px 11px 30px; border-radius: 9px; cursor: pointer;
  overflow-wrap: anywhere;
}
:dir(rtl) .item { padding: 11px 30px 11px 14px; }
.item:hover { background: var(--_raised); }
.item:focus-visible { outline-offset: -2px; background: var(--_raised); }
.item.unread::before {
  content: ""; position: absolute; inset-block-start: 17px; inset-inline-start: 12px; inline-size: 8px; block-size: 8px;
  border-radius: 50%; background: var(--_accent);
}
.words { display: block; }
.title, .text { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; white-space: pre-line; }
.title, .text, .time { unicode-bidi: plaintext; text-align: left; }
.title:dir(rtl), .text:dir(rtl), .time:dir(rtl) { text-align: right; }
.title { font-weight: 500; }
.unread .title { font-weight: 650; }
.text { -webkit-line-clamp: 3; margin-block-start: 1px; color: var(--_muted); font-size: 13.5px; }
.time { display: block; margin-block-start: 3px; color: var(--_muted); font-size: 12px; }
.more { display: block; inline-size: calc(100% - 12px); margin: 0 6px 6px; padding-block: 10px; text-align: center; }

.note { display: grid; justify-items: center; align-content: center; gap: 4px; min-block-size: 264px; padding: 24px; text-align: center; }
.note .round {
  display: grid; place-items: center; inline-size: 56px; block-size: 56px; margin-block-end: 10px;
  border-radius: 50%; background: var(--_raised); color: var(--_muted);
}
.note svg { inline-size: 26px; block-size: 26px; }
.note strong { font-weight: 600; }
.note span { color: var(--_muted); font-size: 13px; }
.ghosts { padding: 6px; }
.ghost { display: grid; gap: 9px; padding: 15px 14px 14px 30px; }
.ghost i { block-size: 10px; border-radius: 5px; background: var(--_border); animation: breathe 1.4s ease-in-out infinite; }
.ghost i:nth-child(1) { inline-size: 55%; }
.ghost i:nth-child(2) { inline-size: 88%; animation-delay: .1s; }
.ghost i:nth-child(3) { inline-size: 24%; block-size: 8px; animation-delay: .2s; }
@keyframes breathe { 50% { opacity: .45; } }

@media (prefers-reduced-motion: reduce) {
  *, ::before, ::after { animation: none !important; transition: none !important; }
}
@media (forced-colors: active) {
  .badge, .panel { border: 1px solid CanvasText; }
  .badge { line-height: 16px; }
  .item.unread::before { background: Highlight; forced-color-adjust: none; }
  .ghost i { border: 1px solid GrayText; }
  .quiet[aria-disabled="true"] { color: GrayText; }
}
`;
/** Return the sheet of a shadow root: constructed, so that no Content-Security-Policy is in its way. */
export function styled(root) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
}
