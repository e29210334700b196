/**
 * Looks of <notification-center>. It follows the page's `color-scheme`; the custom properties on :host are the
 * ones to set from outside. A constructed sheet, so that a strict Content-Security-Policy needs no exception.
 */
export const sheet = new CSSStyleSheet();

sheet.replaceSync(`
:host {
  --_accent: var(--tocsin-accent, light-dark(#2f5bea, #8aa4ff));
  --_on-accent: var(--tocsin-on-accent, light-dark(#fff, #0e1330));
  --_surface: var(--tocsin-surface, light-dark(#fff, #1a1c22));
  --_hover: var(--tocsin-hover, light-dark(#f4f5f8, #23262e));
  --_text: var(--tocsin-text, light-dark(#181a20, #eceef3));
  --_muted: var(--tocsin-muted, light-dark(#5d6371, #a2a8b6));
  --_line: var(--tocsin-line, light-dark(#e5e7ec, #2e323c));
  --_badge: var(--tocsin-badge, light-dark(#d92b3a, #ff6b74));
  --_on-badge: var(--tocsin-on-badge, light-dark(#fff, #2a0609));
  --_radius: var(--tocsin-radius, 14px);
  --_width: var(--tocsin-width, 25rem);
  --_shadow: var(--tocsin-shadow, 0 1px 2px light-dark(#10142514, #0006), 0 16px 40px light-dark(#10142529, #0009));
  display: inline-block;
  position: relative;
  font-family: var(--tocsin-font, system-ui, sans-serif);
  font-size: 0.9375rem;
  line-height: 1.4;
  color: var(--_text);
  -webkit-tap-highlight-color: transparent;
}
:host([hidden]), [hidden] { display: none !important; }
*, ::before, ::after { box-sizing: border-box; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
button:disabled { cursor: default; opacity: 0.6; }
:focus-visible { outline: 2px solid var(--_accent); outline-offset: 2px; }
svg { inline-size: 1.25rem; block-size: 1.25rem; fill: none; stroke: currentColor; stroke-width: 1.7; stroke-linecap: round; stroke-linejoin: round; flex: none; }
h2, p, ul { margin: 0; padding: 0; }
ul { list-style: none; }
.quiet { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

.bell { position: relative; display: grid; place-items: center; inline-size: 2.75rem; block-size: 2.75rem; border-radius: 50%; }
.bell svg { inline-size: 1.5rem; block-size: 1.5rem; transform-origin: 50% 15%; }
.bell:hover, .bell[aria-expanded="true"] { background: light-dark(#10142510, #ffffff17); }
.bell[data-status="reconnecting"] svg, .bell[data-status="offline"] svg, .bell[data-status="signed-out"] svg { opacity: 0.5; }
.badge { position: absolute; inset-block-start: 0.1rem; inset-inline-start: 1.6rem; min-inline-size: 1.2rem; block-size: 1.2rem; padding-inline: 0.3rem; border-radius: 0.6rem; background: var(--_badge); color: var(--_on-badge); font-size: 0.6875rem; font-weight: 700; line-height: 1.2rem; text-align: center; font-variant-numeric: tabular-nums; box-shadow: 0 0 0 2px var(--tocsin-badge-ring, var(--_surface)); }

.panel { position: fixed; inset: var(--_top, 4rem) var(--_right, 0.5rem) var(--_bottom, auto) var(--_left, auto); margin: 0; padding: 0; inline-size: min(var(--_width), calc(100vw - 1rem)); max-block-size: min(38rem, var(--_room, 80vh)); border: 1px solid var(--_line); border-radius: var(--_radius); background: var(--_surface); color: var(--_text); box-shadow: var(--_shadow); overflow: hidden; flex-direction: column; }
.panel:popover-open { display: flex; animation: drop 0.16s ease-out; }
.panel:focus { outline: none; }
@keyframes drop { from { opacity: 0; translate: 0 -6px; } }

.header { display: flex; align-items: center; gap: 0.75rem; min-block-size: 3.25rem; padding-block: 0.75rem 0.25rem; padding-inline: 1.125rem; }
.title { flex: 1; font-size: 1.0625rem; font-weight: 650; letter-spacing: -0.01em; }
.read-all, .more, .retry, .alerts { color: var(--_accent); font-size: 0.8125rem; font-weight: 550; border-radius: 6px; }
.read-all { padding: 0.25rem 0.4rem; margin-inline-end: -0.4rem; }
.read-all:hover, .more:hover, .retry:hover, .alerts:hover { text-decoration: underline; text-underline-offset: 0.2em; }
.close { display: none; place-items: center; inline-size: 2.5rem; block-size: 2.5rem; margin-inline-end: -0.6rem; border-radius: 50%; }

.tabs { display: flex; align-items: center; gap: 0.375rem; padding-inline: 1.125rem; padding-block-end: 0.7rem; border-block-end: 1px solid var(--_line); }
.tab, .type { padding: 0.2rem 0.75rem; border-radius: 999px; font-size: 0.8125rem; font-weight: 550; color: var(--_muted); }
.tab:hover { background: var(--_hover); }
.tab[aria-pressed="true"] { background: var(--_text); color: var(--_surface); }
.type { display: inline-flex; align-items: center; gap: 0.3rem; margin-inline-start: auto; padding-inline-end: 0.5rem; border: 1px solid var(--_line); }
.type svg { inline-size: 0.85rem; block-size: 0.85rem; }

.status { display: flex; align-items: center; gap: 0.5rem; padding: 0.5rem 1.125rem; font-size: 0.8125rem; color: light-dark(#7a4d00, #f3c46b); background: light-dark(#fff6e2, #2f2716); animation: late 0.3s 0.9s backwards; }
.status:empty { display: none; }
.status::before { content: ""; inline-size: 0.5rem; block-size: 0.5rem; flex: none; border-radius: 50%; background: currentColor; animation: pulse 1.4s ease-in-out infinite; }
.status[data-status="offline"]::before, .status[data-status="signed-out"]::before { animation: none; }
@keyframes late { from { opacity: 0; } }
@keyframes pulse { 50% { opacity: 0.25; } }

.scroll { flex: 1; overflow-y: auto; overscroll-behavior: contain; scrollbar-width: thin; }

.item { position: relative; display: flex; flex-wrap: wrap; gap: 0 0.75rem; padding: 0.8rem 1.125rem; border-block-end: 1px solid var(--_line); }
.item:last-child { border-block-end: 0; }
.item:hover { background: var(--_hover); }
.item[data-fresh] { animation: arrive 0.45s ease-out; }
@keyframes arrive { from { opacity: 0; background: color-mix(in srgb, var(--_accent) 22%, transparent); translate: 0 -8px; } }
.item.critical::before { content: ""; position: absolute; inset-block: 0; inset-inline-start: 0; inline-size: 3px; background: var(--_badge); }

.icon { --tint: var(--_accent); position: relative; display: grid; place-items: center; inline-size: 2.25rem; block-size: 2.25rem; flex: none; border-radius: 50%; color: color-mix(in srgb, var(--tint) 88%, var(--_text)); background: color-mix(in srgb, var(--tint) 13%, var(--_surface)); }
.icon svg { inline-size: 1.2rem; block-size: 1.2rem; }
[data-icon="like"] { --tint: light-dark(#d6336c, #ff8fb5); }
[data-icon="mention"] { --tint: light-dark(#7a3ff2, #b794ff); }
[data-icon="follow"] { --tint: light-dark(#0b7f8f, #5fd0de); }
[data-icon="message"] { --tint: light-dark(#1574c4, #7cc2ff); }
[data-icon="order"] { --tint: light-dark(#a85b00, #f2b36b); }
[data-icon="payment"] { --tint: light-dark(#16803c, #6bd68f); }
[data-icon="system"] { --tint: light-dark(#596072, #a9b1c3); }
[data-icon="security"] { --tint: light-dark(#c02a37, #ff8a91); }
.stack .icon { box-shadow: 3px 3px 0 -1px var(--_surface), 3px 3px 0 0 color-mix(in srgb, var(--tint) 40%, var(--_surface)), 6px 6px 0 -1px var(--_surface), 6px 6px 0 0 color-mix(in srgb, var(--tint) 25%, var(--_surface)); margin-block-end: 6px; }

.body { flex: 1; min-inline-size: 0; overflow-wrap: anywhere; }
.opener { text-align: start; text-decoration: none; color: inherit; }
.body > .opener { display: block; padding-inline-end: 1rem; }
.body > .opener::after { content: ""; position: absolute; inset: 0; }
.opener:focus-visible { outline: none; }
.body > .opener:focus-visible::after { outline: 2px solid var(--_accent); outline-offset: -2px; border-radius: 4px; }
.item-title { font-weight: 500; color: var(--_muted); }
.unread .item-title { font-weight: 640; color: var(--_text); }
.item-message { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; color: var(--_muted); font-size: 0.875rem; white-space: pre-line; }
.unread .body > .item-message { color: color-mix(in srgb, var(--_text) 82%, var(--_surface)); }
.meta { display: flex; align-items: center; gap: 0.75rem; margin-block-start: 0.15rem; }
.time { color: var(--_muted); font-size: 0.8125rem; }
.expand { position: relative; z-index: 1; display: inline-flex; align-items: center; gap: 0.1rem; padding: 0.1rem 0.3rem 0.1rem 0.55rem; border-radius: 999px; background: color-mix(in srgb, var(--_accent) 11%, transparent); color: color-mix(in srgb, var(--_accent) 88%, var(--_text)); font-size: 0.8125rem; font-weight: 550; }
.expand svg { inline-size: 1rem; block-size: 1rem; transition: rotate 0.15s; }
.expand[aria-expanded="true"] svg { rotate: 180deg; }

.dot { position: absolute; inset-block-start: 1.2rem; inset-inline-end: 1.125rem; inline-size: 0.55rem; block-size: 0.55rem; border-radius: 50%; background: var(--_accent); visibility: hidden; }
.unread .dot { visibility: visible; }
.buttons { position: absolute; z-index: 1; inset-block-start: 0.55rem; inset-inline-end: 0.75rem; display: flex; gap: 2px; padding: 2px; border: 1px solid var(--_line); border-radius: 10px; background: var(--_surface); }
.item-button { display: grid; place-items: center; inline-size: 1.9rem; block-size: 1.75rem; border-radius: 8px; color: var(--_muted); }
.item-button:hover { background: var(--_hover); color: var(--_text); }
.item-button svg { inline-size: 1.1rem; block-size: 1.1rem; }
@media (hover: hover) {
  .buttons { opacity: 0; }
  .item:hover .buttons, .item:focus-within .buttons { opacity: 1; }
  .item:hover .dot, .item:focus-within .dot { visibility: hidden; }
}
@media (hover: none) {
  .buttons { position: relative; inset: auto; padding: 0; border: 0; background: none; flex-direction: column; justify-content: center; }
  .item-button { inline-size: 2.5rem; block-size: 2.25rem; }
  .dot { inset-inline-end: auto; inset-inline-start: 0.4rem; inset-block-start: 1.6rem; }
  .body > .opener { padding-inline-end: 0; }
}

.members { position: relative; z-index: 1; flex: 0 0 100%; margin-block-start: 0.6rem; padding-inline-start: 3rem; min-block-size: 2rem; }
.member { position: relative; padding: 0.45rem 0.75rem; border-inline-start: 2px solid var(--_line); font-size: 0.875rem; }
.member .item-title { color: var(--_text); font-weight: 550; }
.member .opener:hover .item-title { text-decoration: underline; text-underline-offset: 0.2em; }
.member .opener:focus-visible { outline: 2px solid var(--_accent); border-radius: 4px; }
.again { padding: 0.3rem 0.75rem; border-inline-start: 2px solid var(--_line); font-size: 0.8125rem; color: var(--_muted); }

.scroll > .more { display: block; inline-size: 100%; padding: 0.9rem; border-block-start: 1px solid var(--_line); }
.empty { display: grid; justify-items: center; gap: 0.25rem; padding: 3.25rem 2rem 3.5rem; text-align: center; color: var(--_muted); font-size: 0.875rem; }
.empty svg { inline-size: 3rem; block-size: 3rem; padding: 0.75rem; margin-block-end: 0.6rem; border-radius: 50%; color: var(--_accent); background: color-mix(in srgb, var(--_accent) 11%, transparent); }
.empty strong { color: var(--_text); font-size: 0.9688rem; font-weight: 620; }
.skeleton span { position: relative; display: block; block-size: 4.9rem; border-block-end: 1px solid var(--_line); animation: pulse 1.6s ease-in-out infinite; }
.skeleton span::before { content: ""; position: absolute; inset-block-start: 0.9rem; inset-inline-start: 1.125rem; inline-size: 2.25rem; block-size: 2.25rem; border-radius: 50%; background: var(--_line); }
.skeleton span::after { content: ""; position: absolute; inset-block-start: 1.05rem; inset-inline: 4.1rem 5rem; block-size: 0.7rem; border-radius: 4px; background: var(--_line); box-shadow: 0 1.35rem 0 var(--_line); }

.failure { display: flex; align-items: center; justify-content: space-between; gap: 1rem; padding: 0.6rem 1.125rem; font-size: 0.8125rem; color: light-dark(#9b1c28, #ff9aa1); background: light-dark(#fdeef0, #35191d); }
.footer { padding: 0.6rem 1.125rem; border-block-start: 1px solid var(--_line); font-size: 0.8125rem; color: var(--_muted); text-align: center; }

@media (max-width: 36rem) {
  .panel { inset: 0; inline-size: 100vw; max-inline-size: none; block-size: 100dvh; max-block-size: none; border: 0; border-radius: 0; }
  .panel:popover-open { animation-name: rise; }
  .close { display: grid; }
  .header { padding-block-start: max(0.75rem, env(safe-area-inset-top)); }
  .footer { padding-block-end: max(0.75rem, env(safe-area-inset-bottom)); }
  @keyframes rise { from { opacity: 0; translate: 0 2rem; } }
}
@media (prefers-reduced-motion: reduce) {
  *, ::before, ::after { animation: none !important; transition: none !important; }
}
@media (forced-colors: active) {
  .badge, .dot { background: Highlight; color: HighlightText; forced-color-adjust: none; }
  .tab[aria-pressed="true"] { outline: 2px solid; }
}
`);
