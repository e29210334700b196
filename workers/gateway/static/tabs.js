/**
 * One tab of a browser holds the live connection, the others listen to it: over HTTP/1.1 a browser opens six
 * connections per host, so the seventh tab with a connection of its own would stop the whole site.
 *
 * The leading tab is the one that was looked at last: a hidden tab may be frozen, a visible one never is. When it
 * is hidden it asks who is still visible, as in another window, and the first to answer takes over. A tab leads by
 * holding a Web Lock; where there are no Web Locks (plain http off this machine) every tab leads itself.
 */
export class Tabs {
  #name;
  #on;
  #channel = null;
  #waiting = null;
  #release = null;
  #me = String(Math.random());
  #asked = false;

  /**
   * @param {string} name what is shared: tabs of another name are strangers
   * @param {{lead: () => void, follow: () => void, hear: (message: any) => void}} on
   *   lead: connect; follow: another tab took over, disconnect; hear: what another tab told
   */
  constructor(name, on) {
    this.#name = name;
    this.#on = on;
  }

  get leading() {
    return this.#release !== null;
  }

  start() {
    if (!navigator.locks || !globalThis.BroadcastChannel) {
      this.#release = () => {};
      this.#on.lead();
      return;
    }
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => (data.heir ? this.#inherit(data) : this.#on.hear(data));
    document.addEventListener("visibilitychange", this.#looked);
    this.#campaign(document.visibilityState === "visible");
  }

  stop() {
    document.removeEventListener("visibilitychange", this.#looked);
    this.#waiting?.abort();
    this.#channel?.close();
    this.#channel = null;
    this.#release?.();
    this.#release = null;
  }

  tell(message) {
    this.#channel?.postMessage(message);
  }

  #looked = () => {
    const visible = document.visibilityState === "visible";
    if (visible && !this.leading) this.#campaign(true);
    this.#asked = !visible && this.leading;
    if (this.#asked) this.tell({ heir: "wanted" });
  };

  /** wanted: who is visible? · offered: `me` is · chosen: `me` leads from now on */
  #inherit({ heir, me }) {
    if (heir === "wanted" && document.visibilityState === "visible") this.tell({ heir: "offered", me: this.#me });
    if (heir === "offered" && this.#asked) {
      this.#asked = false;
      this.tell({ heir: "chosen", me });
    }
    if (heir === "chosen" && me === this.#me && !this.leading) this.#campaign(true);
  }

  async #campaign(steal) {
    this.#waiting?.abort();
    const waiting = (this.#waiting = new AbortController());
    const hold = () =>
      new Promise((release) => {
        if (waiting.signal.aborted) return release();
        this.#release = release;
        this.#on.lead();
      });
    try {
      // The two options exclude each other: a theft never waits, so it needs no signal.
      await navigator.locks.request(this.#name, steal ? { steal } : { signal: waiting.signal }, hold);
    } catch {
      if (waiting.signal.aborted) return;
      this.#release = null;
      this.#on.follow();
      this.#campaign(false);
    }
  }
}
