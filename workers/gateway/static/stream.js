import { Tabs } from "./tabs.js";

const KINDS = ["unread-count", "notification", "read", "archived", "gap"];
const FIRST_WAIT = 500;
const LONGEST_WAIT = 30_000;

/**
 * The live side of one gateway, shared by all tabs of the browser. It reconnects by itself, for ever, resuming
 * after the last event any tab has seen.
 *
 * Events: `change` {kind, data}: what the server said; `open`: connected (again), so older knowledge may be
 * stale; `status`: this.status is new; `user`: another person is signed in now.
 */
export class Stream extends EventTarget {
  /** connecting | live | reconnecting | offline | signed-out */
  status = "connecting";
  user = null;
  #gateway;
  #tabs = null;
  #source = null;
  #last = "";
  #count = null;
  #failures = 0;
  #timer = 0;
  #running = false;
  /** What this stream is called when the server is told whether anybody can see the page; and what it was told. */
  #name = Math.random().toString(36).slice(2);
  #seen = true;

  constructor(gateway) {
    super();
    this.#gateway = gateway;
  }

  start() {
    this.#running = true;
    document.addEventListener("visibilitychange", this.#looked);
    addEventListener("online", this.#online);
    addEventListener("offline", this.#offline);
    this.#connect();
  }

  stop() {
    this.#running = false;
    document.removeEventListener("visibilitychange", this.#looked);
    removeEventListener("online", this.#online);
    removeEventListener("offline", this.#offline);
    this.#disconnect();
    this.#tabs?.stop();
    this.#tabs = null;
  }

  /** EventSource never says why it failed, so the session is asked for first; that also names the user. */
  async #connect() {
    this.#disconnect();
    try {
      const { user } = await this.#gateway.get("/api/session");
      if (!this.#running) return;
      if (user !== this.user) this.#become(user);
    } catch (error) {
      return this.#later(error.status === 401 ? "signed-out" : "reconnecting");
    }
    if (!this.#tabs) this.#join();
    else if (this.#tabs.leading) this.#open();
  }

  #become(user) {
    const before = this.user;
    this.user = user;
    this.#last = "";
    this.#tabs?.stop();
    this.#tabs = null;
    if (before !== null) this.dispatchEvent(new CustomEvent("user"));
  }

  #join() {
    this.#tabs = new Tabs(`tocsin ${this.#gateway.source} ${this.user}`, {
      lead: () => this.#open(),
      follow: () => this.#disconnect(),
      hear: (message) => this.#heard(message),
    });
    this.#tabs.start();
    this.#tabs.tell({ asking: true });
  }

  async #open() {
    this.#disconnect();
    this.#seen = visible();
    const query = { lastEventId: this.#last, connection: this.#name, visible: this.#seen };
    if (this.#gateway.token) {
      try {
        query.ticket = (await this.#gateway.post("/api/tickets")).ticket;
      } catch {
        return this.#later("reconnecting");
      }
      if (!this.#tabs?.leading) return;
    }
    const url = this.#gateway.url("/api/notifications/stream", query);
    const source = new EventSource(url, { withCredentials: !this.#gateway.token });
    this.#source = source;
    source.onopen = () => {
      this.#failures = 0;
      this.#tell({ status: "live", opened: true });
      this.#looked();
    };
    // EventSource would retry at a fixed pace and give up on a refusal: waiting is done here, with jitter.
    source.onerror = () => this.#later("reconnecting");
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this.#tell({ kind, data: JSON.parse(event.data || "{}"), last: event.lastEventId });
      });
    }
  }

  #disconnect() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #later(status) {
    if (!this.#running) return;
    this.#disconnect();
    this.#tell({ status: navigator.onLine ? status : "offline" });
    const ceiling = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#failures);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), ceiling * (0.5 + Math.random() / 2));
  }

  #tell(message) {
    this.#tabs?.tell(message);
    this.#take(message);
  }

  /** From another tab: only its leader is believed; a newcomer that asks is told how things stand. */
  #heard(message) {
    if (!this.#tabs.leading) {
      if (!message.asking) this.#take(message);
    } else if (message.asking && this.#count) {
      this.#tabs.tell({ status: this.status, kind: "unread-count", data: this.#count, last: this.#last });
    }
  }

  #take({ status, opened, kind, data, last }) {
    if (last) this.#last = last;
    if (kind === "unread-count") this.#count = data;
    if (status && status !== this.status) {
      this.status = status;
      this.dispatchEvent(new CustomEvent("status"));
    }
    if (opened) this.dispatchEvent(new CustomEvent("open"));
    if (kind) this.dispatchEvent(new CustomEvent("change", { detail: { kind, data } }));
  }

  /** Finished even when the page is frozen or left: a person who is not there is to get her pushes. */
  #looked = () => {
    if (this.#source?.readyState !== EventSource.OPEN || this.#seen === visible()) return;
    this.#seen = visible();
    const body = { connection: this.#name, visible: this.#seen };
    this.#gateway.post("/api/presence", { body, outlive: true }).catch(() => {});
  };

  #online = () => {
    this.#failures = 0;
    this.#connect();
  };

  #offline = () => this.#later("offline");
}

function visible() {
  return document.visibilityState === "visible";
}
