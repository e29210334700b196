import { Gateway } from "./gateway.js";
import { Stream } from "./stream.js";

const PAGE = 20;
const LONGEST_PAGE = 100;
const KEPT = 300;

/**
 * A person's inbox as this tab knows it, without any looks: usable on its own, behind another interface.
 *
 * The unread count is only ever the server's. Rows are read from the server when somebody looks (`look`), and
 * kept up to date by the stream from then on; what the stream says during a read is applied after it.
 *
 * Events: `change`: rows, count or status are new; `arrive` {item}: a notification this tab has not seen before.
 */
export class Inbox extends EventTarget {
  unread = null;
  loaded = false;
  loading = false;
  /** Why the last request failed, as a GatewayError, or null. */
  failure = null;
  #gateway;
  #stream;
  #rows = new Map();
  #next = null;
  #filter = {};
  #highest = 0;
  #stale = false;
  #looking = false;
  #held = [];
  #era = 0;

  constructor(source, token) {
    super();
    this.#gateway = new Gateway(source, token);
    this.#stream = new Stream(this.#gateway);
    this.#stream.addEventListener("status", () => this.#changed());
    this.#stream.addEventListener("open", () => this.#expire());
    this.#stream.addEventListener("user", () => this.#forget());
    this.#stream.addEventListener("change", ({ detail }) => this.#hear(detail));
  }

  get status() {
    return this.#stream.status;
  }

  get more() {
    return this.#next !== null;
  }

  /** Newest first. */
  get items() {
    return [...this.#rows.values()].sort((one, other) => other.seq - one.seq);
  }

  get filter() {
    return this.#filter;
  }

  /** {type, unread}: which rows to hold. */
  set filter(filter) {
    if (filter.type === this.#filter.type && filter.unread === this.#filter.unread) return;
    this.#filter = filter;
    this.#clear();
    if (this.#looking) this.#load();
  }

  start() {
    this.#stream.start();
  }

  stop() {
    this.#stream.stop();
  }

  /** Somebody is about to look: have the list loaded and fresh. */
  prepare() {
    if (!this.loading && (!this.loaded || this.#stale)) this.#load();
  }

  /** The list is on screen; it is kept fresh until `lookAway`. */
  look() {
    this.#looking = true;
    this.prepare();
  }

  lookAway() {
    this.#looking = false;
    if (this.#rows.size > KEPT) this.#clear();
  }

  /** The members of a group, newest first, and where to go on: {notifications, next}. */
  members(id, before = null) {
    return this.#gateway.get("/api/notifications", { group: id, before, limit: PAGE });
  }

  async loadMore() {
    if (this.loading || !this.more) return;
    await this.#page({ before: this.#next, limit: PAGE }, () => {});
  }

  read(id) {
    return this.#act(`/api/notifications/${id}/read`, (row) => row.id === id, { read: true });
  }

  readAll() {
    return this.#act("/api/notifications/read-all", () => true, { read: true });
  }

  /** Finished even when the page is left for the notification's address. */
  clicked(id) {
    const clickedAt = new Date().toISOString();
    return this.#act(
      `/api/notifications/${id}/clicked`,
      (row) => row.id === id,
      { read: true, clickedAt },
      true,
    );
  }

  archive(id) {
    return this.#act(`/api/notifications/${id}/archive`, (row) => row.id === id, {
      archivedAt: new Date().toISOString(),
    });
  }

  /** Shows the change at once, and takes it back if the server refuses. */
  async #act(path, chosen, change, outlive = false) {
    const taken = [...this.#rows.values()]
      .filter(chosen)
      .map((row) => ({ row, shown: { ...row, ...change } }));
    for (const { shown } of taken) this.#put(shown);
    this.failure = null;
    this.#changed();
    try {
      const { count } = await this.#gateway.post(path, { outlive });
      // While the stream is live it brings the count, in the right order with the other changes.
      if (this.status !== "live") this.unread = count;
    } catch (error) {
      this.failure = error;
      for (const { row, shown } of taken) {
        if ((this.#rows.get(row.id) ?? shown) === shown) this.#put(row);
      }
    }
    this.#changed();
  }

  #load() {
    this.#stale = false;
    const limit = Math.min(Math.max(this.#rows.size, PAGE), LONGEST_PAGE);
    return this.#page({ limit }, () => this.#rows.clear());
  }

  async #page(query, prepare) {
    const era = ++this.#era;
    this.loading = true;
    this.failure = null;
    this.#changed();
    try {
      const filter = { type: this.#filter.type, unread: this.#filter.unread ? "true" : "" };
      const { notifications, next } = await this.#gateway.get("/api/notifications", { ...filter, ...query });
      if (era !== this.#era) return;
      prepare();
      for (const row of notifications) this.#rows.set(row.id, row);
      this.#next = next;
      this.loaded = true;
    } catch (error) {
      if (era !== this.#era) return;
      this.failure = error;
      this.#stale = true;
    }
    this.#settle();
  }

  #settle() {
    this.loading = false;
    for (const change of this.#held.splice(0)) this.#apply(change);
    this.#changed();
  }

  #hear(change) {
    if (change.kind === "unread-count") this.unread = change.data.count;
    else if (this.loading) this.#held.push(change);
    else this.#apply(change);
    this.#changed();
  }

  #apply({ kind, data }) {
    if (kind === "notification") this.#arrived(data);
    else if (kind === "gap") this.#restart();
    else if (kind === "archived") for (const id of data.ids) this.#rows.delete(id);
    else if (kind === "read") {
      for (const row of this.#rows.values())
        if (data.all || data.ids.includes(row.id)) this.#put({ ...row, read: true });
    }
  }

  /** A row that is known moves up; a group takes the place of the rows it started from. */
  #arrived(item) {
    const fresh = item.seq > this.#highest;
    this.#highest = Math.max(this.#highest, item.seq);
    for (const id of item.group?.leading ?? []) this.#rows.delete(id);
    if (this.loaded && this.#wanted(item)) this.#put(item);
    if (!this.#looking && this.#rows.size > KEPT) this.#clear();
    if (fresh) this.dispatchEvent(new CustomEvent("arrive", { detail: item }));
  }

  #wanted(item) {
    const { type, unread } = this.#filter;
    return (!type || item.type === type) && !(unread && item.read);
  }

  #put(row) {
    if (row.archivedAt) this.#rows.delete(row.id);
    else this.#rows.set(row.id, row);
  }

  /** Too much was missed, or the server's inbox was restored: places start anew. */
  #restart() {
    this.#highest = 0;
    this.#expire();
  }

  #expire() {
    this.#stale = true;
    if (this.#looking) this.#load();
  }

  #clear() {
    this.#era += 1;
    this.#rows.clear();
    this.#next = null;
    this.loaded = false;
    this.failure = null;
    this.#settle();
  }

  #forget() {
    this.unread = null;
    this.#highest = 0;
    this.#clear();
    if (this.#looking) this.#load();
  }

  #changed() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}
