import { create, say, set } from "./dom.js";
import { icon } from "./icons.js";
import { Row } from "./row.js";

const TICK = 20_000;
const GAP = 8;
const LEAST_HEIGHT = 280;

const STATUS = {
  connecting: "connecting",
  reconnecting: "reconnecting",
  offline: "offline",
  "signed-out": "signedOut",
};

/**
 * The list that drops down from the bell. It draws what the inbox holds; every wish of the reader goes to `on`:
 * {open(item, event), read(id), archive(id), members(id, before), readAll(), more(), retry(), unread(flag),
 * everything(), alerts(), shown(flag)}.
 */
export class Panel {
  element;
  #on;
  #words;
  #language;
  #anchor;
  #rows = new Map();
  #fresh = new Set();
  #parts = {};
  #timer = 0;
  #asked = false;
  #within = false;

  constructor(anchor, on, words, language) {
    this.#anchor = anchor;
    this.#on = on;
    this.#words = words;
    this.#language = language;
    this.element = this.#build();
  }

  get open() {
    return this.element.matches(":popover-open");
  }

  /** Marks rows that come in under the reader's eyes. */
  welcome(id) {
    if (this.open) this.#fresh.add(id);
  }

  draw(inbox, type, permission) {
    const parts = this.#parts;
    const words = this.#words;
    const { items, status, loading, loaded, failure, filter } = inbox;
    parts.readAll.hidden = !inbox.unread;
    set(parts.all, "aria-pressed", String(!filter.unread));
    set(parts.unread, "aria-pressed", String(Boolean(filter.unread)));
    parts.type.hidden = !type;
    say(parts.typeLabel, words.only(type));
    say(parts.status, status in STATUS ? words[STATUS[status]] : "");
    set(parts.status, "data-status", status);
    this.#drawRows(items);
    set(parts.list, "aria-busy", String(loading));
    parts.skeleton.hidden = loaded || !loading;
    parts.empty.hidden = !loaded || items.length > 0;
    say(parts.emptyTitle, filter.unread ? words.emptyUnread : words.empty);
    say(parts.emptyHint, filter.unread ? words.emptyUnreadHint : words.emptyHint);
    parts.more.hidden = !inbox.more || items.length === 0;
    parts.more.disabled = loading;
    say(parts.more, loading ? words.loadingMore : words.more);
    parts.failure.hidden = !failure || failure.status === 401;
    say(parts.failureText, failure ? words.failed(failure.message) : "");
    parts.retry.hidden = loaded;
    const refused = this.#asked && permission === "denied";
    parts.footer.hidden = permission !== "default" && !refused;
    parts.alerts.hidden = refused;
    say(parts.alertsNote, refused ? words.alertsDenied : "");
  }

  #drawRows(items) {
    const root = this.element.getRootNode();
    const focused = root.activeElement;
    const wanted = new Set(items.map((item) => item.id));
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      if (row.element.contains(focused)) this.#beside(row).focus();
      row.element.remove();
      this.#rows.delete(id);
    }
    let place = this.#parts.list.firstElementChild;
    for (const item of items) {
      const row = this.#rows.get(item.id) ?? this.#add(item.id);
      row.update(item);
      if (row.element === place) place = place.nextElementSibling;
      else this.#parts.list.insertBefore(row.element, place);
    }
    if (focused?.isConnected && root.activeElement !== focused && this.#parts.list.contains(focused))
      focused.focus();
  }

  #add(id) {
    const row = new Row(this.#on, this.#words, this.#language);
    this.#rows.set(id, row);
    if (this.#fresh.delete(id)) row.element.dataset.fresh = "";
    return row;
  }

  #beside(row) {
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    return (next && this.#rows.get(next.dataset.id)?.handle) ?? this.element;
  }

  #build() {
    const on = this.#on;
    const words = this.#words;
    const button = (part, label, onclick) => create("button", { type: "button", part, onclick }, label);
    const parts = this.#parts;
    parts.readAll = button("read-all", words.readAll, () => {
      this.element.focus();
      on.readAll();
    });
    parts.close = create(
      "button",
      {
        type: "button",
        part: "close",
        "aria-label": words.close,
        popovertarget: "panel",
        popovertargetaction: "hide",
      },
      icon("close"),
    );
    parts.all = button("tab", words.all, () => on.unread(false));
    parts.unread = button("tab", words.unread, () => on.unread(true));
    parts.typeLabel = create("span");
    parts.type = create(
      "button",
      { type: "button", part: "type", title: words.everything, onclick: () => on.everything() },
      parts.typeLabel,
      icon("close"),
    );
    parts.status = create("p", { part: "status", role: "status" });
    parts.list = create("ul", { part: "list", role: "list", "aria-labelledby": "title" });
    parts.skeleton = create(
      "div",
      { class: "skeleton", role: "status", "aria-label": words.loading },
      ...[1, 2, 3].map(() => create("span")),
    );
    parts.emptyTitle = create("strong");
    parts.emptyHint = create("span");
    parts.empty = create("div", { part: "empty" }, icon("check"), parts.emptyTitle, parts.emptyHint);
    parts.more = button("more", words.more, () => on.more());
    parts.failureText = create("span");
    parts.retry = button("retry", words.retry, () => on.retry());
    parts.failure = create("div", { part: "failure", role: "alert" }, parts.failureText, parts.retry);
    parts.alerts = button("alerts", words.alerts, () => {
      this.#asked = true;
      on.alerts();
    });
    parts.alertsNote = create("span");
    parts.footer = create("footer", { part: "footer" }, parts.alerts, parts.alertsNote);
    return create(
      "div",
      {
        id: "panel",
        part: "panel",
        popover: "auto",
        role: "dialog",
        "aria-labelledby": "title",
        tabindex: "-1",
        ontoggle: (event) => this.#toggled(event),
        onbeforetoggle: (event) => this.#toggles(event),
        onkeydown: (event) => this.#walk(event),
      },
      create(
        "header",
        { part: "header" },
        create("h2", { id: "title", part: "title" }, words.title),
        parts.readAll,
        parts.close,
      ),
      create(
        "div",
        { part: "tabs", role: "group", "aria-label": words.filter },
        parts.all,
        parts.unread,
        parts.type,
      ),
      parts.status,
      create("div", { class: "scroll" }, parts.list, parts.skeleton, parts.empty, parts.more),
      parts.failure,
      parts.footer,
    );
  }

  #toggles({ newState }) {
    if (newState === "open") this.#place();
    else this.#within = this.element.contains(this.element.getRootNode().activeElement);
  }

  #toggled({ newState }) {
    const shown = newState === "open";
    clearInterval(this.#timer);
    const follow = shown ? addEventListener : removeEventListener;
    follow("resize", this.#place);
    follow("scroll", this.#place, true);
    if (shown) {
      this.#tick();
      this.#timer = setInterval(this.#tick, TICK);
      this.element.focus({ preventScroll: true });
    } else if (this.#within) {
      // Closed by Escape or by a choice, not by a click elsewhere: back to where the reader came from.
      this.#anchor.focus({ preventScroll: true });
    }
    this.#on.shown(shown);
  }

  #tick = () => {
    for (const row of this.#rows.values()) row.tick();
  };

  /** Below the bell, or above where there is more room; a page narrow as a phone gives it all (style.js). */
  #place = () => {
    const bell = this.#anchor.getBoundingClientRect();
    const { innerWidth: width, innerHeight: height } = window;
    const below = height - bell.bottom - 2 * GAP;
    const above = bell.top - 2 * GAP;
    const up = below < LEAST_HEIGHT && above > below;
    const style = this.element.style;
    style.setProperty("--_top", up ? "auto" : `${bell.bottom + GAP}px`);
    style.setProperty("--_bottom", up ? `${height - bell.top + GAP}px` : "auto");
    style.setProperty("--_room", `${up ? above : below}px`);
    const leftward = bell.left + bell.right > width;
    style.setProperty("--_left", leftward ? "auto" : `${Math.max(GAP, bell.left)}px`);
    style.setProperty(
      "--_right",
      leftward ? `${Math.max(GAP, document.documentElement.clientWidth - bell.right)}px` : "auto",
    );
  };

  /** Arrow keys, Home and End walk from row to row. */
  #walk(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    const elements = [...this.#parts.list.children];
    if (!step || elements.length === 0) return;
    const focused = this.element.getRootNode().activeElement;
    const here = elements.findIndex((element) => element.contains(focused));
    const there = Math.min(Math.max(here + step, 0), elements.length - 1);
    event.preventDefault();
    this.#rows.get(elements[there].dataset.id).handle.focus();
  }
}
