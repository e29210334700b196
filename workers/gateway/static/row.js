import { create, safeAddress, say, set } from "./dom.js";
import { icon, iconName } from "./icons.js";
import { ago, full } from "./time.js";

/** The link to what a notification is about; a button when it leads nowhere. `act(event)` hears each opening. */
function opener(address, part, act) {
  if (!address) return create("button", { type: "button", part, onclick: act });
  return create("a", {
    href: address,
    part,
    onclick: act,
    onauxclick: (event) => event.button === 1 && act(event),
  });
}

function moment(part) {
  return create("time", { part });
}

function showMoment(element, instant, language) {
  set(element, "datetime", instant);
  set(element, "title", full(instant, language));
  say(element, ago(instant, language));
}

/** One row of the list. It is updated in place, so that focus, scroll and an opened group stay where they are. */
export class Row {
  element = create("li", { part: "item" });
  #on;
  #words;
  #language;
  #item = null;
  #address;
  #parts = {};
  #members = null;
  #turn = 0;

  /** @param on {open(item, event), read(id), archive(id), members(id, before)} */
  constructor(on, words, language) {
    this.#on = on;
    this.#words = words;
    this.#language = language;
  }

  /** What takes the focus when the row is walked to. */
  get handle() {
    return this.#parts.opener;
  }

  update(item) {
    const before = this.#item;
    this.#item = item;
    if (!before) this.#build();
    const address = safeAddress(item.actionUrl);
    if (address !== this.#address || !this.#parts.opener) this.#lead(address);
    this.#show(item);
    if (this.#members && before?.group?.count !== item.group?.count) this.#refill();
  }

  tick() {
    for (const time of this.element.querySelectorAll("time")) showMoment(time, time.dateTime, this.#language);
  }

  #build() {
    const parts = this.#parts;
    parts.icon = create("span", { part: "icon" });
    parts.title = create("span", { part: "item-title", dir: "auto" });
    parts.hint = create("span", { class: "quiet" });
    parts.message = create("p", { part: "item-message", dir: "auto" });
    parts.time = moment("time");
    parts.expand = create("button", {
      type: "button",
      part: "expand",
      "aria-expanded": "false",
      onclick: () => this.#toggle(),
    });
    parts.expandLabel = create("span");
    parts.expand.append(parts.expandLabel, icon("chevron"));
    parts.meta = create("div", { class: "meta" }, parts.time, parts.expand);
    const read = () => {
      this.handle.focus(); // the button is about to vanish
      this.#on.read(this.#item.id);
    };
    parts.read = create("button", { type: "button", part: "item-button", onclick: read }, icon("check"));
    parts.archive = create(
      "button",
      { type: "button", part: "item-button", onclick: () => this.#on.archive(this.#item.id) },
      icon("archive"),
    );
    parts.body = create("div", { class: "body" }, parts.message, parts.meta);
    this.element.append(
      parts.icon,
      parts.body,
      create("div", { class: "buttons" }, parts.read, parts.archive),
      create("span", { part: "dot", "aria-hidden": "true" }),
    );
  }

  #lead(address) {
    this.#address = address;
    const next = opener(address, "opener", (event) => this.#on.open(this.#item, event));
    next.append(this.#parts.hint, this.#parts.title);
    if (this.#parts.opener) this.#parts.opener.replaceWith(next);
    else this.#parts.body.prepend(next);
    this.#parts.opener = next;
  }

  #show(item) {
    const parts = this.#parts;
    const name = iconName(item);
    if (parts.icon.dataset.icon !== name) {
      parts.icon.dataset.icon = name;
      parts.icon.replaceChildren(icon(name));
    }
    this.element.dataset.id = item.id;
    set(this.element, "part", item.read ? "item" : "item item-unread");
    set(
      this.element,
      "class",
      `item ${item.read ? "" : "unread"} ${item.group ? "stack" : ""} ${item.importance}`,
    );
    say(parts.hint, item.read ? "" : this.#words.unreadItem);
    say(parts.title, item.title);
    say(parts.message, item.message);
    parts.message.hidden = !item.message;
    showMoment(parts.time, item.createdAt, this.#language);
    parts.read.hidden = item.read;
    for (const action of ["read", "archive"]) {
      set(parts[action], "aria-label", this.#words[action](item.title));
      set(parts[action], "title", this.#words[action]("").replace(/\W+$/, ""));
    }
    parts.expand.hidden = !item.group;
    if (item.group) this.#label();
  }

  #label() {
    const { count } = this.#item.group;
    say(this.#parts.expandLabel, this.#members ? this.#words.collapse : this.#words.expand(count));
    set(this.#parts.expand, "aria-expanded", String(Boolean(this.#members)));
  }

  #toggle() {
    if (this.#members) {
      this.#members.remove();
      this.#members = null;
    } else {
      this.#members = create("ul", { part: "members", role: "list" });
      this.element.append(this.#members);
      this.#refill();
    }
    this.#label();
  }

  /** The first page of members, in place of what is shown. */
  #refill() {
    this.#fill(null);
  }

  async #fill(before) {
    const list = this.#members;
    const turn = ++this.#turn;
    list.setAttribute("aria-busy", "true");
    let page = null;
    try {
      page = await this.#on.members(this.#item.id, before);
    } catch (error) {
      list.append(this.#again(this.#words.failed(error.message), this.#words.retry, before));
    }
    list.removeAttribute("aria-busy");
    if (!page || list !== this.#members || turn !== this.#turn) return;
    if (before === null) list.replaceChildren();
    list.append(...page.notifications.map((member) => this.#member(member)));
    if (page.next !== null) list.append(this.#again("", this.#words.more, page.next));
  }

  #member(item) {
    const link = opener(safeAddress(item.actionUrl), "opener", (event) => this.#on.open(item, event));
    link.append(create("span", { part: "item-title", dir: "auto" }, item.title));
    const time = moment("time");
    showMoment(time, item.createdAt, this.#language);
    return create(
      "li",
      { part: "member" },
      link,
      create("p", { part: "item-message", dir: "auto" }, item.message),
      time,
    );
  }

  #again(text, label, before) {
    const line = create("li", { class: "again" }, text);
    const act = () => {
      line.remove();
      this.#fill(before);
    };
    line.append(create("button", { type: "button", part: "more", onclick: act }, label));
    return line;
  }
}
